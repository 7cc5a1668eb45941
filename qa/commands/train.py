"""Train a model: what train.py does."""

from qa.data.demo import write_demo
from qa.data.splits import has_unanswerable
from qa.data.windows import WindowSettings, check_lengths
from qa.evaluation.scores import check_metric_name
from qa.hub import publish as hub
from qa.model.device import bf16_supported, device_precision, uses_tf32, wanted_precision
from qa.model.loading import load_config, position_limit
from qa.model.tokenizer import check_fit, load_tokenizer
from qa.model.weight_files import check_weight_files
from qa.options.arguments import REPOSITORY, DataArguments, ModelArguments
from qa.options.parser import read_options
from qa.options.stages import check_stages
from qa.options.training_arguments import TrainingOptions
from qa.runtime.device_settings import SHARE_STEPS, cap_gpu_memory, configure_device, use_freest_gpu
from qa.runtime.distributed import on_main_process
from qa.runtime.process import configure_process
from qa.training.planner import named_size, plan_run
from qa.training.preflight import check_gpu_is_used, check_intervals, check_model_options, check_options
from qa.training.prepare import prepare_splits
from qa.training.resolved import ResolvedRun
from qa.training.resume import kept_precision, likely_start
from qa.training.run import locked_output_folder, run_training


def train(argv: list[str], test: dict[str, str], description: str) -> None:
    """Prepare and run a training, or print its plan.

    Args:
        argv: the command line. test: its options on test data, which ``split_test_options`` took from it.
        description: what ``--help_all`` prints first.
    """
    configure_process()
    kinds = ModelArguments, DataArguments, TrainingOptions
    given = read_options(kinds, argv, REPOSITORY / "config.yaml", description)
    check_stages(given, test, argv)
    check_intervals(given)
    if not given.value("use_cpu"):
        use_freest_gpu(SHARE_STEPS)
    model_args, data_args, args = given.build()
    if not args.plan:
        check_options(model_args, data_args, args)
    if args.plan and args.device.type != "cuda":
        precision = wanted_precision(args, bf16_supported())  # the plan is for a GPU
    else:
        precision = on_main_process(lambda: device_precision(args, kept_precision(args, likely_start(args))))
    configure_device(args.device, uses_tf32(args))
    with args.main_process_first():
        if data_args.demo_dir and args.local_process_index == 0:
            write_demo(data_args.demo_dir)

    tokenizer, config = load_tokenizer(model_args), load_config(model_args)
    check_fit(tokenizer, config)
    check_lengths(WindowSettings.from_args(data_args), tokenizer, position_limit(config))
    if not args.plan:
        check_model_options(args, config)
        check_weight_files(model_args)
    if args.push_to_hub and not args.plan:
        on_main_process(lambda: hub.check_target(hub.Target.from_args(args)))
    data = prepare_splits(tokenizer, model_args, data_args, args.seed)
    unanswerable = has_unanswerable(data_args, (part.split for part in data.values()))
    check_metric_name(args.metric_for_best_model, unanswerable)

    resolved = ResolvedRun.from_options(data_args, args, precision, unanswerable)
    resolved = plan_run(config, args, data["train"].windows["length"][:], resolved)
    if args.plan:
        return
    cap_gpu_memory(args.device, named_size(args))
    trained_on = 0 if data_args.demo_dir else resolved.count_windows(args, len(data["train"].windows))
    on_main_process(lambda: check_gpu_is_used(args, trained_on))
    with locked_output_folder(args):
        run_training(model_args, data_args, args, resolved, tokenizer, config, data)
    if args.push_to_hub and args.process_index == 0:
        print(f"published: {hub.push(args.folder, hub.Target.from_args(args))}")
