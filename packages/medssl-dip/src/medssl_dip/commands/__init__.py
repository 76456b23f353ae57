"""The commands of `medssl-dip`, one module each: parse, call the library, show what came back."""
