"""Extractive question answering: options, data, windows, models, training, answers and scores.

Imports run one way: the commands at the top level import this package, and it imports none of them.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from qa.inference.answerer import QuestionAnswerer
    from qa.inference.pipeline import pipeline

__all__ = ["QuestionAnswerer", "pipeline"]


def __getattr__(name: str) -> object:
    """Return a public name, imported on first use, so that ``import qa`` loads neither torch nor transformers."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from qa.inference import answerer, pipeline
    except ModuleNotFoundError as error:
        if error.name in ("torch", "transformers"):
            message = f"qa.{name} needs {error.name}: pip install 'albert-squad-qa[train]'"
            raise ModuleNotFoundError(message, name=error.name) from None
        raise
    return pipeline.pipeline if name == "pipeline" else answerer.QuestionAnswerer


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
