"""Options of transformers' question-answering examples, and of its releases before 5, that do not exist here."""

from qa.options.option import Option

GENERATIVE = "belongs to models that write their answers; these select them from the text: leave it out"
COLUMNS = (
    "is a pair of --columns here: --columns question=NAME context=NAME answers=NAME, those that differ from SQuAD's"
)
REMOVED = "was removed in transformers 5: leave it out"

EXAMPLES = (
    Option("max_predict_samples", instead="is called max_eval_samples in evaluate_qa.py, which answers a test file"),
    Option("use_fast_tokenizer", instead="is not an option: every tokenizer here is a fast one; leave it out"),
    Option("use_slow_tokenizer", instead="is not supported: only fast tokenizers give the positions of answers"),
    *(Option(name, instead=COLUMNS) for name in ("question_column", "context_column", "answer_column")),
    Option("val_max_answer_length", instead="is called max_answer_length here"),
    *(
        Option(name, instead=GENERATIVE)
        for name in (
            "ignore_pad_token_for_loss",
            "predict_with_generate",
            "generation_max_length",
            "generation_num_beams",
            "generation_config",
            "sortish_sampler",
        )
    ),
    Option("model_type", instead="is not needed: a model's configuration names its type; leave it out"),
    Option("checkpointing_steps", instead="is written --save_strategy epoch, or --save_strategy steps --save_steps N"),
    Option("with_tracking", instead="is not needed: report_to names the trackers; leave it out"),
)

RELEASE_4 = (
    Option("adafactor", instead="was removed in transformers 5: write optim: adafactor"),
    Option("save_safetensors", instead="was removed in transformers 5: weights are always safetensors; leave it out"),
    Option("use_mps_device", instead="was removed in transformers 5: an Apple GPU is used if available; leave it out"),
    Option("include_tokens_per_second", instead="was removed in transformers 5: write include_num_input_tokens_seen"),
    Option("push_to_hub_model_id", instead="was removed in transformers 5: write hub_model_id"),
    Option("push_to_hub_organization", instead="was removed in transformers 5: write hub_model_id: ORGANIZATION/NAME"),
    Option("push_to_hub_token", instead="is not needed: log in once with `hf auth login`", private=True),
    *(
        Option(name, instead=REMOVED)
        for name in (
            "fp16_backend",
            "fp16_opt_level",
            "half_precision_backend",
            "fsdp_min_num_params",
            "fsdp_transformer_layer_cls_to_wrap",
            "include_inputs_for_metrics",
            "jit_mode_eval",
            "mp_parameters",
            "past_index",
            "ray_scope",
            "torchdynamo",
            "tpu_metrics_debug",
            "tpu_num_cores",
            "use_ipex",
            "use_legacy_prediction_loop",
        )
    ),
)
