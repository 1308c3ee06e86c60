"Hands the metadata of settings.ini to setuptools; everything else is in pyproject.toml."
from configparser import ConfigParser
from setuptools import setup

config = ConfigParser()
config.read("settings.ini", encoding="utf-8")
settings = config["DEFAULT"]
robots = settings["robots_requirements"].split()
setup(version=settings["version"], description=settings["description"], install_requires=settings["requirements"].split(),
      extras_require={"robots": robots, "dev": robots + settings["dev_requirements"].split()})
