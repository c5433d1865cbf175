"""Limits of a cluster that must fit each other."""

from osamd.cluster.configuration import CONTENT_BYTES, MESSAGE_BYTES, SEGMENTER_CALLS, Plan, serve_config
from osamd.settings import Settings


def test_one_key_cannot_take_all_calls_of_a_segmenter() -> None:
    """Not even through as many edges as there may be."""
    edge = serve_config(Plan())["applications"][0]["deployments"][0]
    most = edge["autoscaling_config"]["max_replicas"] * Settings.model_fields["concurrent_requests"].default
    assert SEGMENTER_CALLS > most + Settings.model_fields["concurrent_requests"].default


def test_serve_ends_no_request() -> None:
    """A pull takes as long as it takes; osamd has deadlines of its own."""
    for is_local in (False, True):
        assert "request_timeout_s" not in serve_config(Plan(), is_local=is_local)["http_options"]


def test_a_message_has_room_for_the_largest_photo() -> None:
    """With a prompt beside it."""
    assert Settings.model_fields["max_body_bytes"].default < CONTENT_BYTES < MESSAGE_BYTES
