from helpers.core import stage
from helpers.doctor.checks import NAME, main

stage.run(NAME, main)
