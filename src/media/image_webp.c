/* WebP by libwebp: lossy, lossless, with alpha; of an animation the first frame on its canvas. EXIF from the container.
 * Source: WebP container specification. */
#include <webp/decode.h>
#include <webp/demux.h>

#include "base/mem.h"
#include "media/image_int.h"

static int orientation_of(const WebPData *file)
{
    WebPDemuxer *d = WebPDemux(file);
    WebPChunkIterator it;
    int o = 1;
    if (d && WebPDemuxGetChunk(d, "EXIF", 1, &it)) {
        o = exif_orientation(it.chunk.bytes, it.chunk.size);
        WebPDemuxReleaseChunkIterator(&it);
    }
    WebPDemuxDelete(d);
    return o;
}

/* The canvas and where its first frame lies; pixels outside are transparent. */
static status first_frame(const WebPData *file, const image_options *o, frame *f)
{
    WebPDemuxer *d = WebPDemux(file);
    WebPIterator it;
    if (!d || !WebPDemuxGetFrame(d, 1, &it)) {
        WebPDemuxDelete(d);
        return err_set(ST_INVALID, "broken WebP: no frame");
    }
    const int w = (int)WebPDemuxGetI(d, WEBP_FF_CANVAS_WIDTH), h = (int)WebPDemuxGetI(d, WEBP_FF_CANVAS_HEIGHT);
    status st = ST_OK;
    WebPBitstreamFeatures in;
    if (WebPGetFeatures(it.fragment.bytes, it.fragment.size, &in) != VP8_STATUS_OK || in.width != it.width || in.height != it.height || it.x_offset < 0 ||
        it.y_offset < 0 || it.width > w - it.x_offset || it.height > h - it.y_offset)
        st = err_set(ST_INVALID, "broken WebP: its first frame is not within the canvas");
    if (st == ST_OK) st = frame_alloc(f, w, h, 4, o);
    const size_t stride = (size_t)w * 4, at = (size_t)it.y_offset * stride + (size_t)it.x_offset * 4;
    if (st == ST_OK && !WebPDecodeRGBAInto(it.fragment.bytes, it.fragment.size, f->data + at, stride * (size_t)h - at, (int)stride))
        st = err_set(ST_INVALID, "broken WebP: its first frame cannot be decoded");
    WebPDemuxReleaseIterator(&it);
    WebPDemuxDelete(d);
    return st;
}

status image_webp(const uint8_t *data, size_t n, const image_options *o, frame *f)
{
    const WebPData file = { data, n };
    WebPBitstreamFeatures info;
    if (WebPGetFeatures(data, n, &info) != VP8_STATUS_OK) return err_set(ST_INVALID, "broken WebP: no readable header");
    if (info.has_animation) {
        TRY(first_frame(&file, o, f));
    } else {
        const int channels = info.has_alpha ? 4 : 3;
        TRY(frame_alloc(f, info.width, info.height, channels, o));
        const size_t stride = (size_t)info.width * (size_t)channels, bytes = stride * (size_t)info.height;
        const uint8_t *ok = info.has_alpha ? WebPDecodeRGBAInto(data, n, f->data, bytes, (int)stride) : WebPDecodeRGBInto(data, n, f->data, bytes, (int)stride);
        if (!ok) return err_set(ST_INVALID, "broken WebP: the picture cannot be decoded");
    }
    f->orientation = orientation_of(&file);
    return ST_OK;
}
