"""What stops the local stack, in one line that says what to do."""


class DevstackError(Exception):
    """The local stack cannot do what it was asked to."""


class TemplateError(DevstackError):
    """template.yaml or samconfig.toml holds something that the local stack does not support."""
