"""The limits of a server, as `GET /v1/limits` returns them."""

from pydantic import Field

from foursight.schema.base import Wire


class Limits(Wire):
    """Each limit is checked before the memory or the time is spent; the description ends with the code of the error."""

    upload_bytes: int = Field(description="Bytes of one request's body: body_too_large.")
    uploads_bytes: int = Field(description="Bytes of all uploads in flight, per worker: too_many_uploads.")
    upload_seconds: float = Field(description="Time for receiving a body: upload_timeout.")
    upload_bytes_per_second: int = Field(description="Least rate of an upload after its first 10 s: upload_too_slow.")
    images: int = Field(description="Images in one request: too_many_images.")
    image_pixels: int = Field(description="Width x height of an image: too_many_pixels.")
    image_side: int = Field(description="Pixels of an image's longer side: side_too_long.")
    jpeg_scans: int = Field(description="Scans of a progressive JPEG: too_many_scans.")
    jpeg_scan_pixels: int = Field(description="Scans x pixels of a progressive JPEG: too_many_scans.")
    tiff_tiles: int = Field(description="Strips or tiles of a TIFF: too_many_tiles.")
    decode_seconds: float = Field(description="Time for decoding an image: decode_timeout.")
    queue_images: int = Field(description="Images admitted and not yet answered, per worker: overloaded.")
    queue_seconds: float = Field(description="Expected time in the queue: overloaded.")
    request_seconds: float = Field(description="Time for answering a request, or Request-Timeout: deadline_exceeded.")
    layer_tables: int = Field(description="Tables of layers that are computed or wait, per worker: overloaded.")
    client_connections: int = Field(description="Connections of one address, 0 without limit: they are closed.")
