"""The built-in backbones: one plugin folder each, loaded by the registry like any other plugin."""
