"""Between the two APIs, where a client speaks one and the engine behind a model the other."""

from narthex.gateway.translate._base import Translation
from narthex.gateway.translate.choosing import translation_for
from narthex.gateway.translate.upstream_words import error_words

__all__ = ["Translation", "error_words", "translation_for"]
