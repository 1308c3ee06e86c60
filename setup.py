"Hands the metadata of settings.ini to setuptools; everything else is in pyproject.toml."
from configparser import ConfigParser
from setuptools import setup

config = ConfigParser()
config.read("settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
extras = {name: settings[f"{name}_requirements"].split() for name in ("robots", "lerobot", "policies", "trackers", "video", "dev")}
setup(version=settings["version"], description=settings["description"], install_requires=settings["requirements"].split(),
      extras_require={**extras, "dev": [r for reqs in extras.values() for r in reqs]})
