"""The commands of `medssl-eval`, one module each: parse, call the library, show what came back."""
