"""The ways to fine-tune, each a subclass of ``Method`` with a name in any file of this package; nothing to register."""

from playground.methods.method import all_methods, get_method, method_for, method_of, register_with_peft

__all__ = ["all_methods", "get_method", "method_for", "method_of", "register_with_peft"]
