/* JPEG by libjpeg-turbo with its default (accurate) transform and upsampling, the way Pillow uses it: baseline and progressive, grey, YCbCr, CMYK.
 * Sources: ITU-T T.81, libjpeg's libjpeg.txt, EXIF 2.3. */
#include <stdio.h>
#include <jpeglib.h>
#include <setjmp.h>
#include <string.h>

#include "base/mem.h"
#include "media/image_int.h"

typedef struct decoder {
    struct jpeg_decompress_struct d;
    struct jpeg_error_mgr err;
    struct jpeg_source_mgr src;
    struct jpeg_progress_mgr progress;
    jmp_buf jump;
    uint8_t *row;
    bool early_end;
} decoder;

static void on_error(j_common_ptr d) { longjmp(((decoder *)d->client_data)->jump, 1); }
static void on_message(j_common_ptr d, int level) { (void)d, (void)level; }
static void no_source(j_decompress_ptr d) { (void)d; }
static boolean on_end(j_decompress_ptr d)
{
    decoder *j = d->client_data;
    j->early_end = true;
    longjmp(j->jump, 1);
}
static void on_skip(j_decompress_ptr d, long n)
{
    if (n <= 0) return;
    if ((size_t)n > d->src->bytes_in_buffer) (void)on_end(d);
    d->src->next_input_byte += n;
    d->src->bytes_in_buffer -= (size_t)n;
}
/* Thousands of empty scans make a small progressive file cost minutes. */
static void on_progress(j_common_ptr d)
{
    enum { MAX_SCANS = 500 };
    if (((j_decompress_ptr)d)->input_scan_number > MAX_SCANS) on_error(d);
}

static int orientation_of(j_decompress_ptr d)
{
    for (jpeg_saved_marker_ptr m = d->marker_list; m; m = m->next)
        if (m->marker == JPEG_APP0 + 1 && m->data_length > 6 && memcmp(m->data, "Exif\0\0", 6) == 0) return exif_orientation(m->data + 6, m->data_length - 6);
    return 1;
}

/* CMYK as stored by Adobe, inverted: the values are what is left of the light. */
static void cmyk_row(const uint8_t *src, uint8_t *dst, int width)
{
    for (int x = 0; x < width; x++, src += 4, dst += 3)
        for (int c = 0; c < 3; c++) {
            const unsigned ink = 255u - src[c], t = ink * src[3] + 128;
            const int v = src[3] - (int)((t + (t >> 8)) >> 8);
            dst[c] = (uint8_t)(v < 0 ? 0 : v);
        }
}

static status run(decoder *j, const image_options *o, frame *f)
{
    struct jpeg_decompress_struct *d = &j->d;
    if (setjmp(j->jump)) {
        char why[JMSG_LENGTH_MAX] = "the file ends early";
        if (!j->early_end) j->err.format_message((j_common_ptr)d, why);
        return err_set(ST_INVALID, "broken JPEG: %s", why);
    }
    jpeg_create_decompress(d);
    d->src = &j->src;
    d->progress = &j->progress;
    d->mem->max_memory_to_use = 1L << 30;
    jpeg_save_markers(d, JPEG_APP0 + 1, 0xffff);
    jpeg_read_header(d, TRUE);
    TRY(frame_alloc(f, d->image_width, d->image_height, 3, o));
    f->orientation = orientation_of(d);
    const bool cmyk = d->num_components == 4;
    d->out_color_space = cmyk ? JCS_CMYK : JCS_RGB;
    jpeg_start_decompress(d);
    if (cmyk) {
        j->row = mem_array(d->output_width, 4);
        if (!j->row) return err_nomem();
    }
    while (d->output_scanline < d->output_height) {
        uint8_t *dst = f->data + (size_t)d->output_scanline * d->output_width * 3;
        JSAMPROW row = cmyk ? j->row : dst;
        if (jpeg_read_scanlines(d, &row, 1) == 1 && cmyk) cmyk_row(j->row, dst, f->width);
    }
    return ST_OK;
}

status image_jpeg(const uint8_t *data, size_t n, const image_options *o, frame *f)
{
    decoder *j = mem_calloc(1, sizeof *j);
    if (!j) return err_nomem();
    j->d.err = jpeg_std_error(&j->err);
    j->d.client_data = j;
    j->err.error_exit = on_error;
    j->err.emit_message = on_message;
    j->progress.progress_monitor = on_progress;
    j->src = (struct jpeg_source_mgr){ .next_input_byte = data, .bytes_in_buffer = n, .init_source = no_source, .fill_input_buffer = on_end,
                                       .skip_input_data = on_skip, .resync_to_restart = jpeg_resync_to_restart, .term_source = no_source };
    const status st = run(j, o, f);
    jpeg_destroy_decompress(&j->d);
    mem_free(j->row);
    mem_free(j);
    return st;
}
