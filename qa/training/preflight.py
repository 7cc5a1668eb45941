"""Refuse before data are read what cannot work: packages, arguments and folders that a run needs."""

import copy
import difflib
import json
import re
import sys
from importlib.util import find_spec

import torch
from torch._inductor import list_mode_options
from torch._inductor.cpp_builder import get_cpp_compiler
from torch.utils._triton import has_triton
from transformers import AutoModelForQuestionAnswering, PretrainedConfig, PreTrainedModel, Trainer, get_scheduler
from transformers.integrations import get_available_reporting_integrations
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_utils import IntervalStrategy, SchedulerType
from transformers.training_args import OptimizerNames, ParallelMode
from transformers.utils import is_liger_kernel_available

from qa.evaluation.scores import check_metric_name
from qa.io.files import check_writable
from qa.model.optimizations import set_attention
from qa.options.arguments import DataArguments, ModelArguments
from qa.options.option import require
from qa.options.parser import GivenOptions
from qa.options.training_arguments import TrainingOptions
from qa.runtime.console import warn
from qa.runtime.errors import UserError, one_line
from qa.runtime.gpus import explain_unused_gpu
from qa.training.compilation import check_cuda_graphs
from qa.training.resume import check_output_folder

DEFAULT_STRATEGIES = {"eval": "no", "save": "steps", "logging": "steps"}  # of ``TrainingArguments``
SHORT_RUN = 1000  # windows in all epochs: minutes on a CPU
TRACKER_PACKAGES = {"azure_ml": "azureml-sdk", "flyte": "flytekit"}  # others have the tracker's name


def check_options(model_args: ModelArguments, data_args: DataArguments, args: TrainingOptions) -> None:
    """Check what needs neither a model nor data.

    Raises:
        UserError: training could not start, or its results could not be written.
    """
    check_output_folder(args)
    check_writable(output_dir=str(args.folder), cache_dir=model_args.cache_dir)
    check_metric_name(args.metric_for_best_model, data_args.version_2_with_negative)
    for name in args.report_to or []:
        check_tracker(name)
    check_scheduler(args)
    check_compiler(args)
    require(not args.use_liger_kernel or is_liger_kernel_available(), "use_liger_kernel", needs("liger-kernel"))
    alone = args.fsdp and args.parallel_mode != ParallelMode.DISTRIBUTED
    require(not alone, "fsdp", "needs several processes: torchrun --nproc_per_node 2 train.py")


def check_intervals(given: GivenOptions) -> None:
    """Check the intervals of evaluations, checkpoints and logs, as given: ``TrainingArguments`` replaces zeros.

    Prints a note for one on the command line that its strategy does not use.

    Raises:
        UserError: an interval that is used is not positive.
    """
    for kind, default in DEFAULT_STRATEGIES.items():
        name, steps = f"{kind}_steps", given.value(f"{kind}_steps")
        strategy = given.value(f"{kind}_strategy") or default
        if strategy == IntervalStrategy.STEPS:
            rule = f"must be above 0: a number of steps, or a share of all below 1; for none write --{kind}_strategy no"
            require(steps is None or steps > 0, f"{name} {steps or 0:g}", rule)
        elif name in given.command_line:
            warn(f"note: {name} has no effect with {kind}_strategy {strategy}: --{kind}_strategy steps uses it")


def check_model_options(args: TrainingOptions, config: PretrainedConfig) -> None:
    """Check the options that depend on the architecture, without its weights.

    Raises:
        UserError: the optimizer or the kind of attention is not available.
    """
    check_attention(args, config)
    require("=" in (args.optim_args or "="), "optim_args", f"must be name=value, or several: {args.optim_args!r}")
    try:
        try:
            Trainer.get_optimizer_cls_and_kwargs(args)
        except ValueError:
            if model := skeleton(config):  # for the optimizers that need one
                Trainer.get_optimizer_cls_and_kwargs(args, model)
    except (ImportError, ValueError, TypeError, NotImplementedError) as error:
        raise UserError(f"optim {OptimizerNames(args.optim).value}: {one_line(error)}") from None


def check_attention(args: TrainingOptions, config: PretrainedConfig) -> None:
    """Raise UserError for an ``attn_implementation`` that the architecture does not support."""
    if args.attn_implementation and (model := skeleton(config)):
        set_attention(model, args.attn_implementation)


def skeleton(config: PretrainedConfig) -> PreTrainedModel | None:
    """Return a model without weights; None if its configuration does not allow it, which loading it reports."""
    try:
        with torch.device("meta"):
            return AutoModelForQuestionAnswering.from_config(copy.deepcopy(config))
    except Exception:  # of the architecture's own code
        return None


def needs(package: str) -> str:
    """Return the rule that a package must be installed."""
    return f"needs a package that is not installed: pip install {package}"


def check_tracker(name: str) -> None:
    """Raise UserError for a tracker in ``report_to`` that does not exist or is not installed."""
    if name not in INTEGRATION_TO_CALLBACK:
        nearest = difflib.get_close_matches(name, INTEGRATION_TO_CALLBACK, n=1)
        hint = f"did you mean {nearest[0]}?" if nearest else f"choose from {', '.join(INTEGRATION_TO_CALLBACK)}"
        raise UserError(f"report_to {name} is unknown: {hint}")
    package = TRACKER_PACKAGES.get(name, name)
    installed = name in get_available_reporting_integrations() or find_spec(package.split("-")[0])
    require(bool(installed), f"report_to {name}", needs(package))


def check_scheduler(args: TrainingOptions) -> None:
    """Make the schedule for one weight: it fails as it would for a model.

    Raises:
        UserError: an argument is missing, unknown or out of range.
    """
    kwargs, name = args.lr_scheduler_kwargs or {}, SchedulerType(args.lr_scheduler_type).value
    if not isinstance(kwargs, dict):
        raise UserError("""lr_scheduler_kwargs must be JSON such as '{"num_cycles": 2}'""")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=args.learning_rate)
    steps = args.max_steps if args.max_steps > 0 else 1000
    try:
        get_scheduler(name, optimizer, args.get_warmup_steps(steps), steps, kwargs)
    except (ValueError, TypeError, AttributeError) as error:
        missing = re.findall(r"'(\w+)'", str(error)) if "required" in str(error) else []
        reason = f"needs {' and '.join(missing)}" if missing else one_line(error).removesuffix(".")
        example = json.dumps(dict.fromkeys(missing, 100)) if missing else '{"NAME": VALUE}'
        raise UserError(
            f"lr_scheduler_type {name}: {reason}; its arguments are --lr_scheduler_kwargs '{example}'"
        ) from None


def check_compiler(args: TrainingOptions) -> None:
    """Raise UserError if ``torch_compile`` lacks its backend, its mode or a compiler."""
    if not args.torch_compile:
        return
    backend, mode = args.torch_compile_backend, args.torch_compile_mode
    known = backend in torch.compiler.list_backends(exclude_tags=())  # with those for debugging
    rule = f"is not one of {', '.join(torch.compiler.list_backends())}"
    require(known, f"torch_compile_backend {backend}", rule)
    if backend != "inductor":
        return
    modes = list(list_mode_options())
    require(mode in (None, *modes), f"torch_compile_mode {mode}", f"is not one of {', '.join(modes)}")
    if args.gpu_memory_gb is None:  # else the planner chooses the batches
        check_cuda_graphs(args)
    if args.device.type in ("cuda", "xpu"):
        require(has_triton(), "torch_compile", needs("triton-windows" if sys.platform == "win32" else "triton"))
        return
    if args.device.type == "mps":
        warn("note: torch_compile on MPS is a prototype in torch, and nobody has run it here")
        return
    try:
        get_cpp_compiler()
    except RuntimeError:
        rule = "needs a C++ compiler: install one (apt install g++), or set torch_compile false"
        raise UserError(f"torch_compile {rule}") from None


def check_gpu_is_used(args: TrainingOptions, windows: float) -> None:
    """Check that no GPU of this machine is unused because torch cannot use it.

    Args:
        windows: trained on in all epochs. A short run only prints a note.

    Raises:
        UserError: a long run would compute on the CPU without ``use_cpu``.
    """
    if args.use_cpu or args.device.type != "cpu" or not (reason := explain_unused_gpu()):
        return
    if windows > SHORT_RUN:
        raise UserError(f"{reason}. To train on the CPU all the same: --use_cpu true")
    warn(f"note: {reason}")
