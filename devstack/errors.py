"""What stops the local stack, said in one line a reader can act on."""


class DevstackError(Exception):
    """The local stack cannot do what it was asked to."""


class TemplateError(DevstackError):
    """template.yaml or samconfig.toml holds something the local stack does not understand."""
