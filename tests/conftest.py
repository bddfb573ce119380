"""What every test shares."""

from hypothesis import settings

settings.register_profile("quietcore", deadline=None)  # tests assert no times: a busy machine is no defect
settings.load_profile("quietcore")
