"""The experiments of this package, as `medssl_models.experiments` knows them."""
