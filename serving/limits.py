"""All limits of a server in one place, as it enforces them."""

from foursight.models import decode_guard
from foursight.schema.limits import Limits
from foursight.serving import admission, upload
from foursight.serving.settings import Settings

# Tables of layers that a worker computes or queues. Each takes seconds of a core, which requests need.
MAX_SUMMARIES = 4


def limits(settings: Settings) -> Limits:
    """Return the limits under these settings."""
    return Limits(
        upload_bytes=settings.max_upload_bytes,
        uploads_bytes=settings.max_uploads_mib * 2**20,
        upload_seconds=upload.TIMEOUT_S,
        upload_bytes_per_second=upload.MIN_RATE,
        images=upload.MAX_IMAGES,
        image_pixels=settings.max_image_pixels,
        image_side=decode_guard.MAX_SIDE,
        jpeg_scans=decode_guard.MAX_SCANS,
        jpeg_scan_pixels=decode_guard.MAX_SCAN_PIXELS,
        tiff_tiles=decode_guard.MAX_TILES,
        decode_seconds=settings.decode_timeout_s,
        queue_images=settings.max_queue + settings.max_batch,
        queue_seconds=admission.MAX_WAIT_S,
        client_connections=settings.max_client_connections,
        layer_tables=MAX_SUMMARIES,
        request_seconds=settings.request_timeout_s,
    )
