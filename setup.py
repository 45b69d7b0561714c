"""Packaging: the four commands, and the plugins and design documents they need beside them."""

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
VERSION = re.search(r'__version__ = "([^"]+)"', (HERE / "vogeler/__init__.py").read_text()).group(1)


def shared_files(folder, below):
    """(target, files) pairs that install ``folder`` with its tree under share/vogeler."""
    root = HERE / folder
    directories = [root, *(path for path in sorted(root.rglob("*")) if path.is_dir() and path.name != "__pycache__")]
    for directory in directories:
        files = [str(path.relative_to(HERE)) for path in sorted(directory.iterdir()) if path.is_file()]
        if files:
            yield str(Path("share/vogeler") / below / directory.relative_to(root)), files


setup(
    name="vogeler",
    version=VERSION,
    description="A configuration database for a fleet, filled through a message queue",
    long_description=(HERE / "README.rst").read_text(encoding="utf-8"),
    long_description_content_type="text/x-rst",
    license="Apache-2.0",
    python_requires=">=3.9",
    packages=find_packages(include=["vogeler", "vogeler.*"]),
    package_data={"vogeler": ["py.typed"]},
    data_files=[*shared_files("plugins", "plugins"), *shared_files("etc", "etc")],
    install_requires=["pika>=1.3,<2", "couchdb>=1.2,<2", "pyyaml>=6", "psutil>=5.9"],
    extras_require={"signing": ["cryptography>=3.2"], "sealing": ["cryptography>=3.2"]},
    entry_points={
        "console_scripts": [
            "vogeler-runner = vogeler.cli.runner:main",
            "vogeler-client = vogeler.cli.client:main",
            "vogeler-server = vogeler.cli.server:main",
            "vogeler-admin = vogeler.cli.admin:main",
        ]
    },
    classifiers=[
        "License :: OSI Approved :: Apache Software License",
        "Operating System :: POSIX",
        "Programming Language :: Python :: 3",
        "Topic :: System :: Systems Administration",
    ],
)
