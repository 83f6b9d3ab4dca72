"""What one call asks of a method: settings of its object and of keywords, plug-ins included."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from alphaedit.core.errors import ConfigError
from alphaedit.methods.base import Method
from alphaedit.methods.config import as_specs, overridden
from alphaedit.methods.plugin import Plugin, asked_for


def settings_given(method: Method, over: Mapping[str, Any]) -> dict[str, Any]:
    """Settings given with a method object, and those of one call, which win.

    Plug-ins that are objects become the texts that stand for them: edits on disk say the same
    whichever way was taken.

    Raises:
        ConfigError: a plug-in has no text, does not fit the method, or is given twice.
    """
    given = overridden(method.given, over)
    plugins = as_specs(given.get("plugins", ()))
    if isinstance(plugins, tuple):  # the settings' class tells what is wrong with anything else
        for plugin in plugins:
            if isinstance(plugin, type) and issubclass(plugin, Plugin):
                raise ConfigError(
                    f"The plug-in {plugin.name} is given as its class.",
                    remedy=f"Write {plugin.__name__}().",
                )
        asked_for(plugins, project=given.get("project") is True, method=method)
        if "plugins" in given:
            given["plugins"] = plugins
    return given
