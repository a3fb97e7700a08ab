"""Admission control: the queue is bounded by count and by the time it is expected to take."""

import pytest

from foursight.serving.admission import MAX_WAIT_S, AdmissionControl
from foursight.serving.errors import ApiError
from foursight.serving.metrics import RequestMetrics
from foursight.serving.ray_internals.environment import SERVER_TIMEOUT_S


def control(capacity: int = 72, max_wait_s: float = 60) -> AdmissionControl:
    return AdmissionControl("detect", capacity, RequestMetrics("detect", "one"), max_wait_s)


def refused(admission: AdmissionControl, count: int = 1) -> ApiError:
    with pytest.raises(ApiError) as caught, admission.reserve(count):
        pass
    assert (caught.value.code, caught.value.status) == ("overloaded", 503)
    return caught.value


def test_no_more_images_are_admitted_than_there_are_places() -> None:
    admission = control(capacity=3)
    with admission.reserve(2):
        assert refused(admission, 2).detail == "The queue for 'detect' is full (2 of 3)."
        with admission.reserve(1):
            assert refused(admission).headers == {"Retry-After": "1"}
            assert admission.admitted == 3
    assert admission.admitted == 0
    with admission.reserve(3):
        pass


def test_a_queue_that_would_outlast_the_bound_is_refused_although_there_are_places() -> None:
    admission = control(max_wait_s=60)
    admission.observe(8)
    with admission.reserve(6):
        error = refused(admission, 2)
        assert "64 s" in error.detail
        assert error.headers == {"Retry-After": "48"}
        with admission.reserve(1):
            refused(admission)


def test_an_image_that_nothing_waits_before_is_admitted_however_slow_the_model_is() -> None:
    admission = control(max_wait_s=60)
    admission.observe(100)
    with admission.reserve(1):
        refused(admission)


def test_the_first_measurement_is_the_estimate_and_later_ones_move_it() -> None:
    admission = control()
    admission.observe(10)
    with admission.reserve(2):
        assert refused(admission, 5).headers == {"Retry-After": "20"}
        admission.observe(20)
        assert refused(admission, 5).headers == {"Retry-After": "24"}


def test_an_assumed_estimate_holds_until_the_first_measurement() -> None:
    admission = control()
    admission.assume(30)
    with admission.reserve(1):
        assert refused(admission, 2).headers == {"Retry-After": "30"}
        admission.observe(1)
        with admission.reserve(2):
            pass


def test_the_wait_is_bounded_below_the_time_after_which_haproxy_gives_up() -> None:
    assert MAX_WAIT_S < SERVER_TIMEOUT_S
