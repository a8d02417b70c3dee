"""What the engine calls the parts of a stack, the labels by which they are found, and where an image has its verbs. It asks the engine nothing."""

import re

NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?")  # of a stack or a service: what containers, hosts and volumes can carry
LABEL = "org.stackctl.stack"
SERVICE = "org.stackctl.service"
LINE = "org.stackctl.line"  # of a container: the listener to which it is a bad line
FILES = "org.stackctl.files"  # of the container that never runs, through which files come into volumes: the services whose volumes it has
IMAGE = "org.stackctl.image"  # of an image: stackctl has built it
PEER = "org.stackctl.peer"  # of a network: the other stack that it is meant for
NETWORK = "mail"  # by its name in the project
VERBS = "/usr/local/lib/stackctl/verbs"  # the folder of every image with what can be asked of its server


def project_name(stack: str) -> str:
    """What Compose calls the project of a stack."""
    return f"stackctl-{stack}"


def volume_name(stack: str, volume: str) -> str:
    """What the engine calls a volume of a stack."""
    return f"{project_name(stack)}_{volume}"


def config_volume(service: str) -> str:
    """The volume that holds a service's files, by its name in the project."""
    return f"config-{service}"
