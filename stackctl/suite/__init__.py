"""The scenarios themselves, by what they are about. Importing this package registers them all; it runs none."""

from stackctl.suite import access, extensions, flow, isolation, protocol, reading, rules

__all__ = ["access", "extensions", "flow", "isolation", "protocol", "reading", "rules"]
