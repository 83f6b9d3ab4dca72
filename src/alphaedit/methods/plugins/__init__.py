"""The plug-ins, one module each with a PLUGIN."""
