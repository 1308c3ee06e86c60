"What tests of several files share."
import pytest


@pytest.fixture(scope="session")
def guide_yaml():
    "The settings of the token model, as its guide prints them."
    return """
agent:
  config:
    # Training parameters
    batch_size: 256
    window_size: 32
    total_iter: 10000
    lr: 2e-4

    # Model parameters
    code_dim: 512
    nb_code: 512
    num_joints: 24

    # Data processing
    prefer_expmap: false
    apply_sim_to_real_map: false
    real_dof: null
    sim_to_real_idx: null
"""
