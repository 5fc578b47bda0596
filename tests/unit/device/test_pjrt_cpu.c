/* The PJRT layer against XLA:CPU (`make pjrt-cpu`): devices, programs, buffers, topologies, programs made elsewhere. */
#include "device/pjrt/cache.h"
#include "tests/unit/device/pjrt/help.h"

TEST(devices_are_described)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_plugin_info p;
    pjrt_plugin_describe(plugin, &p);
    CHECK_STR(p.path, plugin_path);
    CHECK_INT(p.api_major, 0);
    CHECK(p.api_minor >= 90);
    CHECK(p.stablehlo[0] >= 1);
    CHECK_INT(pjrt_client_n_devices(c), 4);
    CHECK_STR(pjrt_client_platform(c), "cpu");
    CHECK(strstr(pjrt_client_version(c), "2.21.0") != NULL);
    pjrt_device_info d;
    REQUIRE_OK(pjrt_client_device(c, 3, &d));
    CHECK_INT(d.id, 3);
    CHECK_STR(d.kind, "cpu");
    CHECK_ERR(pjrt_client_device(c, 4, &d), ST_INVALID, "0 to 3 exist");
    const pjrt_value bad = { .name = "nonsense", .kind = PJRT_INT, .i64 = 1 };
    pjrt_client *other;
    CHECK_ERR(pjrt_client_open(plugin, &bad, 1, &other), ST_INVALID, "\"nonsense\" is unknown");
}

TEST(a_program_runs_and_tells_its_costs)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &p));
    const int64_t *dims;
    size_t rank;
    CHECK_INT(pjrt_program_n_outputs(p), 1);
    CHECK_INT(pjrt_program_output(p, 0, &dims, &rank), DT_F32);
    CHECK_INT(rank, 1);
    CHECK_INT(dims[0], 4);
    CHECK_INT(pjrt_program_output(p, 1, &dims, &rank), DT_COUNT);
    CHECK_INT(pjrt_program_n_devices(p), 1);
    const pjrt_stats *s = pjrt_program_stats(p);
    CHECK(s->flops >= 4 && s->compile_s > 0);
    CHECK_INT(s->argument_bytes, 16);
    CHECK_INT(s->output_bytes, 16);
    float a[4] = { 1, 2, 3, 4 }, r[4];
    pjrt_buffer *in = up(c, 0, DT_F32, 4, a), *out;
    REQUIRE(in);
    /* Three steps in flight, each fed by the one before; only the last is waited for. */
    for (int step = 0; step < 3; step++) {
        REQUIRE_OK(pjrt_execute(p, &in, 1, NULL, 0, &out, NULL));
        pjrt_buffer_free(c, in);
        in = out;
    }
    REQUIRE_OK(pjrt_download_now(c, in, r, sizeof r));
    for (int i = 0; i < 4; i++) CHECK_NEAR(r[i], a[i] + 3, 0);
    CHECK_ERR(pjrt_download_now(c, in, r, 12), ST_INVALID, "16 bytes, the destination 12");
    pjrt_event *e;
    bool ready = false;
    REQUIRE_OK(pjrt_buffer_ready(c, in, &e));
    REQUIRE_OK(pjrt_event_done(c, e, &ready));
    CHECK(ready);
    CHECK_OK(pjrt_event_wait(c, e));
    size_t bytes;
    CHECK_OK(pjrt_buffer_bytes(c, in, &bytes));
    CHECK_INT(bytes, 16);
    pjrt_buffer_free(c, in);
    pjrt_program_free(p);
}

TEST(steps_allocate_nothing_of_ours)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &p));
    float a[4] = { 0 }, r[4];
    uint64_t before = mem_count();
    for (int i = 0; i < 50; i++) {
        pjrt_buffer *in = up(c, 0, DT_F32, 4, a), *out = NULL;
        pjrt_event *done;
        CHECK_OK(pjrt_execute(p, &in, 1, NULL, 0, &out, &done));
        CHECK_OK(pjrt_event_wait(c, done));
        CHECK_OK(pjrt_download_now(c, out, r, sizeof r));
        pjrt_buffer_free(c, in);
        pjrt_buffer_free(c, out);
    }
    CHECK_INT(mem_count(), before);
    pjrt_program_free(p);
}

TEST(a_bad_program_is_an_error_with_the_compilers_text)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    CHECK_ERR(pjrt_compile(c, &(pjrt_source){ "decode_64", "module { nonsense }", 19 }, &(pjrt_compile_options){0}, &p), ST_INVALID, "compile decode_64: ");
    CHECK(strstr(err_msg(), "nonsense") != NULL || strstr(err_msg(), "expected") != NULL);
    const char *types = "module { func.func public @main(%a: tensor<4xf32>) -> tensor<4xf32> { %0 = stablehlo.add %a, %b : tensor<4xf32> return %0 : tensor<4xf32> } }";
    CHECK_ERR(pjrt_compile(c, SOURCE(types), &(pjrt_compile_options){0}, &p), ST_INVALID, "undeclared SSA value");
    CHECK_ERR(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){ .n_partitions = 9 }, &p), ST_INVALID, "compile a program");
    pjrt_value unknown = { .name = "xla_no_such_option", .kind = PJRT_BOOL, .b = true };
    CHECK_ERR(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){ .overrides = &unknown, .n_overrides = 1 }, &p), ST_INVALID, "xla_no_such_option");
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &p));
    pjrt_buffer *out;
    CHECK_ERR(pjrt_execute(p, NULL, 0, NULL, 0, &out, NULL), ST_INVALID, "execute");
    pjrt_program_free(p);
}

TEST(memory_is_counted)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    /* Two products with a nonlinearity between them: their intermediate results are temporaries. */
    const char *two = "module { func.func public @main(%a: tensor<128x256xf32>, %w: tensor<256x512xf32>) -> tensor<128x256xf32> {"
        " %h = stablehlo.dot_general %a, %w, contracting_dims = [1] x [0] : (tensor<128x256xf32>, tensor<256x512xf32>) -> tensor<128x512xf32>"
        " %t = stablehlo.tanh %h : tensor<128x512xf32>"
        " %o = stablehlo.dot_general %t, %w, contracting_dims = [1] x [1] : (tensor<128x512xf32>, tensor<256x512xf32>) -> tensor<128x256xf32>"
        " return %o : tensor<128x256xf32> } }";
    pjrt_program *p, *q;
    buf bytes = {0};
    REQUIRE_OK(pjrt_compile(c, SOURCE(two), &(pjrt_compile_options){0}, &p));
    pjrt_stats s = *pjrt_program_stats(p);
    CHECK_INT(s.argument_bytes, 4 * (128 * 256 + 256 * 512));
    CHECK_INT(s.output_bytes, 4 * 128 * 256);
    CHECK_INT(s.alias_bytes, 0);
    CHECK(s.temp_bytes >= 4 * 128 * 512 && s.temp_bytes <= 4 * 4 * 128 * 512);
    CHECK(s.peak_bytes >= s.argument_bytes);
    CHECK(s.flops >= 2.0 * 2 * 128 * 256 * 512);
    CHECK_INT(s.code_bytes, -1);                    /* XLA:CPU does not say */
    REQUIRE_OK(pjrt_program_serialize(p, &bytes));
    REQUIRE_OK(pjrt_program_load(c, bytes.data, bytes.len, "two", &q));
    s.compile_s = 0;
    CHECK(!memcmp(&s, pjrt_program_stats(q), sizeof s));
    pjrt_program_free(p);
    REQUIRE_OK(pjrt_compile(c, SOURCE(update), &(pjrt_compile_options){0}, &p));
    CHECK_INT(pjrt_program_stats(p)->argument_bytes, 4 * (1024 * 64 + 64 + 1));
    CHECK_INT(pjrt_program_stats(p)->alias_bytes, 4 * 1024 * 64);
    CHECK(pjrt_program_stats(p)->temp_bytes < 4 * 1024 * 64);
    pjrt_program_free(p);
    pjrt_program_free(q);
    buf_free(&bytes);
}

TEST(four_devices_reduce_together)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    for (int replicas = 0; replicas < 2; replicas++) {
        pjrt_program *p;
        pjrt_compile_options o = { .n_replicas = replicas ? 4 : 1, .n_partitions = replicas ? 1 : 4 };
        REQUIRE_OK(pjrt_compile(c, SOURCE(all_reduce), &o, &p));
        REQUIRE(pjrt_program_n_devices(p) == 4);
        pjrt_buffer *in[4], *out[4];
        pjrt_event *done[4];
        for (int d = 0; d < 4; d++) {
            float a[4] = { (float)d, 10.f * (float)d, 1, -(float)d };
            CHECK_INT(pjrt_program_device(p, d), d);
            in[d] = up(c, d, DT_F32, 4, a);
        }
        REQUIRE_OK(pjrt_execute(p, in, 1, NULL, 0, out, done));
        for (int d = 0; d < 4; d++) {
            float r[4];
            CHECK_OK(pjrt_event_wait(c, done[d]));
            CHECK_OK(pjrt_download_now(c, out[d], r, sizeof r));
            CHECK(r[0] == 6 && r[1] == 60 && r[2] == 4 && r[3] == -6);
            pjrt_buffer_free(c, in[d]);
            pjrt_buffer_free(c, out[d]);
        }
        pjrt_program_free(p);
    }
}

TEST(one_device_of_four_by_id)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){ .device_ids = (int[]){ 2 } }, &p));
    CHECK_INT(pjrt_program_device(p, 0), 2);
    float a[4] = { 1, 2, 3, 4 }, r[4];
    pjrt_buffer *in = up(c, 2, DT_F32, 4, a), *out;
    REQUIRE_OK(pjrt_execute(p, &in, 1, NULL, 0, &out, NULL));
    CHECK_OK(pjrt_download_now(c, out, r, sizeof r));
    CHECK_NEAR(r[3], 5, 0);
    pjrt_buffer_free(c, in);
    pjrt_buffer_free(c, out);
    pjrt_program_free(p);
}

TEST(a_donated_buffer_is_updated_in_place)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, SOURCE(update), &(pjrt_compile_options){0}, &p));
    CHECK_INT(pjrt_program_stats(p)->alias_bytes, 1024 * 64 * 4);
    pjrt_buffer *args[3], *outs[2];
    int64_t dims[2] = { 1024, 64 }, row_dims[2] = { 1, 64 };
    float row[64], sum;
    for (int i = 0; i < 64; i++) row[i] = 1;
    REQUIRE_OK(pjrt_zeros(c, 1, DT_F32, dims, 2, args));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, row_dims, 2, row, PJRT_HOLD_CALL, &args[1], NULL));
    uintptr_t first, now;
    REQUIRE_OK(pjrt_buffer_address(c, args[0], &first));
    for (int32_t step = 0; step < 5; step++) {
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &step, PJRT_HOLD_CALL, &args[2], NULL));
        REQUIRE_OK(pjrt_execute(p, args, 3, NULL, 0, outs, NULL));
        bool gone = false, there = true;
        CHECK_OK(pjrt_buffer_deleted(c, args[0], &gone));
        CHECK_OK(pjrt_buffer_deleted(c, args[1], &there));
        CHECK(gone && !there);
        pjrt_buffer_free(c, args[0]);
        pjrt_buffer_free(c, args[2]);
        args[0] = outs[0];
        CHECK_OK(pjrt_download_now(c, outs[1], &sum, sizeof sum));
        pjrt_buffer_free(c, outs[1]);
        CHECK_NEAR(sum, 64.0 * (step + 1), 0);
        CHECK_OK(pjrt_buffer_address(c, args[0], &now));
        CHECK(now == first);
    }
    /* The same program leaves it alone when told to. */
    int32_t step = 7;
    REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &step, PJRT_HOLD_CALL, &args[2], NULL));
    REQUIRE_OK(pjrt_execute(p, args, 3, (int64_t[]){ 0 }, 1, outs, NULL));
    bool gone = true;
    CHECK_OK(pjrt_buffer_deleted(c, args[0], &gone));
    CHECK(!gone);
    for (int i = 0; i < 3; i++) pjrt_buffer_free(c, args[i]);
    for (int i = 0; i < 2; i++) pjrt_buffer_free(c, outs[i]);
    pjrt_program_free(p);
}

TEST(every_type_goes_up_and_comes_down)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    static const dtype types[] = { DT_F32, DT_BF16, DT_F16, DT_F64, DT_I64, DT_I32, DT_I16, DT_I8, DT_U8, DT_U16, DT_U32, DT_U64, DT_BOOL,
                                   DT_F8E4M3, DT_F8E5M2, DT_F8E8M0, DT_I4, DT_F4E2M1 };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++) {
        uint8_t in[6 * 8], out[6 * 8];
        size_t width = types[i] == DT_I4 || types[i] == DT_F4E2M1 ? 1 : dtype_bits(types[i]) / 8;
        for (size_t k = 0; k < sizeof in; k++) in[k] = (uint8_t)(types[i] == DT_BOOL ? k & 1 : k % 8);
        int64_t dims[2] = { 2, 3 }, got[PJRT_MAX_RANK];
        size_t rank;
        dtype t;
        pjrt_buffer *b;
        pjrt_event *host;
        status st = pjrt_upload(c, 1, types[i], dims, 2, in, PJRT_HOLD_DONE, &b, &host);
        if (st != ST_OK) { FAIL("%s: %s", pjrt_type_name(types[i]), err_msg()); continue; }
        CHECK_OK(pjrt_event_wait(c, host));
        CHECK_OK(pjrt_buffer_shape(c, b, &t, got, &rank));
        CHECK_INT(t, types[i]);
        CHECK(rank == 2 && got[0] == 2 && got[1] == 3);
        memset(out, 0xEE, sizeof out);
        st = pjrt_download_now(c, b, out, 6 * width);
        if (st != ST_OK) FAIL("%s: %s", pjrt_type_name(types[i]), err_msg());
        else if (memcmp(in, out, 6 * width) != 0) FAIL("%s comes back different", pjrt_type_name(types[i]));
        pjrt_buffer_free(c, b);
        if (types[i] != DT_F8E8M0 && types[i] != DT_F4E2M1) {
            pjrt_buffer *zeros[2] = {0};
            uint8_t none[6 * 8] = {0};
            st = pjrt_zeros(c, 2, types[i], dims, 2, zeros);
            if (st == ST_OK) st = pjrt_download_now(c, zeros[1], out, 6 * width);
            if (st != ST_OK) FAIL("zeros of %s: %s", pjrt_type_name(types[i]), err_msg());
            else CHECK(!memcmp(out, none, 6 * width));
            for (int d = 0; d < 2; d++) pjrt_buffer_free(c, zeros[d]);
        }
    }
    pjrt_buffer *b;
    CHECK_ERR(pjrt_upload(c, 9, DT_F32, NULL, 0, "", PJRT_HOLD_CALL, &b, NULL), ST_INVALID, "device 9");
}

TEST(zeros_come_from_the_cache)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    char dir[] = "/tmp/systolic-cache-XXXXXX", command[300];
    REQUIRE(mkdtemp(dir));
    pjrt_cache *cache;
    REQUIRE_OK(pjrt_cache_open(dir, &cache));
    pjrt_client_use_cache(c, cache);
    for (int i = 0; i < 3; i++) {
        float r[6];
        pjrt_buffer *zeros[2] = {0};
        memset(r, 0xEE, sizeof r);
        REQUIRE_OK(pjrt_zeros(c, 2, DT_F32, (int64_t[]){ 2, 3 }, 2, zeros));
        CHECK_OK(pjrt_download_now(c, zeros[1], r, sizeof r));
        for (int k = 0; k < 6; k++) CHECK(r[k] == 0);
        for (int d = 0; d < 2; d++) pjrt_buffer_free(c, zeros[d]);
        snprintf(command, sizeof command, "test $(ls %s | wc -l) = 1", dir);
        CHECK(system(command) == 0);
        if (i != 1) continue;                       /* a damaged one is made again */
        snprintf(command, sizeof command, "for f in %s/*; do echo x >>$f; done", dir);
        CHECK(system(command) == 0);
    }
    pjrt_client_use_cache(c, NULL);
    pjrt_cache_close(cache);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

TEST(executables_are_serialised_and_loaded)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_program *p, *q;
    buf bytes = {0};
    REQUIRE_OK(pjrt_compile(c, SOURCE(all_reduce), &(pjrt_compile_options){ .n_partitions = 4 }, &p));
    REQUIRE_OK(pjrt_program_serialize(p, &bytes));
    CHECK(bytes.len > 100);
    pjrt_program_free(p);
    REQUIRE_OK(pjrt_program_load(c, bytes.data, bytes.len, "all_reduce", &q));
    REQUIRE(pjrt_program_n_devices(q) == 4);
    pjrt_buffer *in[4], *out[4];
    float a[4] = { 1, 2, 3, 4 }, r[4];
    for (int d = 0; d < 4; d++) in[d] = up(c, d, DT_F32, 4, a);
    REQUIRE_OK(pjrt_execute(q, in, 1, NULL, 0, out, NULL));
    CHECK_OK(pjrt_download_now(c, out[3], r, sizeof r));
    CHECK(r[0] == 4 && r[3] == 16);
    for (int d = 0; d < 4; d++) {
        pjrt_buffer_free(c, in[d]);
        pjrt_buffer_free(c, out[d]);
    }
    pjrt_program_free(q);
    buf_free(&bytes);
}

TEST(topologies_compile_without_the_devices)
{
    NEED_CPU;
    pjrt_client *c = cpu();
    REQUIRE(c);
    pjrt_topology *t, *again;
    REQUIRE_OK(pjrt_topology_open(plugin, "cpu:4", NULL, 0, &t));
    CHECK_INT(pjrt_topology_n_devices(t), 4);
    CHECK_STR(pjrt_topology_platform(t), "cpu");
    CHECK_STR(pjrt_topology_version(t), pjrt_client_version(c));
    pjrt_device_info d;
    CHECK_OK(pjrt_topology_device(t, 2, &d));
    CHECK_INT(d.id, 2);
    CHECK_ERR(pjrt_topology_device(t, 4, &d), ST_INVALID, "0 to 3");
    buf exe = {0}, topo = {0};
    pjrt_stats s;
    REQUIRE_OK(pjrt_compile_for(t, SOURCE(all_reduce), &(pjrt_compile_options){ .n_partitions = 4 }, &exe, &s));
    CHECK(s.argument_bytes == 16 && s.compile_s > 0);
    pjrt_program *p;
    CHECK_OK(pjrt_program_load(c, exe.data, exe.len, "all_reduce", &p));
    pjrt_program_free(p);
    pjrt_topology_close(t);
    REQUIRE_OK(pjrt_client_topology(c, &topo));
    REQUIRE_OK(pjrt_topology_read(plugin, topo.data, topo.len, &again));
    CHECK_INT(pjrt_topology_n_devices(again), 4);
    pjrt_topology_close(again);
    CHECK_ERR(pjrt_topology_open(plugin, "v6e:2x2", NULL, 0, &t), ST_INVALID, "topology v6e:2x2: ");
    buf_free(&exe);
    buf_free(&topo);
}

/* ---- import: a step that JAX exported ---- */
static void ramp(float *x, int64_t n, int64_t seed)
{
    for (int64_t i = 0; i < n; i++) x[i] = (float)((double)((i * 7919 + seed * 104729) % 1009) / 1009.0 - 0.5);
}

/* Runs step.mlirbc of `dir` for four tokens and compares with step.txt. */
static void run_exported(const char *dir)
{
    enum { D = 16, LEN = 8, VOCAB = 32 };
    char path[4200];
    size_t len;
    pjrt_client *c = cpu();
    REQUIRE(c);
    snprintf(path, sizeof path, "%s/step.mlirbc", dir);
    char *code = read_file(path, &len);
    REQUIRE(code);
    pjrt_program *p;
    REQUIRE_OK(pjrt_compile(c, &(pjrt_source){ "step.mlirbc", code, len }, &(pjrt_compile_options){0}, &p));
    float embed[VOCAB * D], wqkv[D * 3 * D], wo[D * D], zero[2 * LEN * D] = {0}, logits[VOCAB];
    ramp(embed, VOCAB * D, 1);
    ramp(wqkv, D * 3 * D, 2);
    ramp(wo, D * D, 3);
    pjrt_buffer *args[6], *outs[2];
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ VOCAB, D }, 2, embed, PJRT_HOLD_CALL, &args[0], NULL));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ D, 3 * D }, 2, wqkv, PJRT_HOLD_CALL, &args[1], NULL));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ D, D }, 2, wo, PJRT_HOLD_CALL, &args[2], NULL));
    REQUIRE_OK(pjrt_upload(c, 0, DT_F32, (int64_t[]){ 2, LEN, D }, 3, zero, PJRT_HOLD_CALL, &args[3], NULL));
    snprintf(path, sizeof path, "%s/step.txt", dir);
    FILE *want = fopen(path, "r");
    REQUIRE(want);
    int32_t token = 5;
    for (int32_t pos = 0; pos < 4; pos++) {
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &token, PJRT_HOLD_CALL, &args[4], NULL));
        REQUIRE_OK(pjrt_upload(c, 0, DT_I32, NULL, 0, &pos, PJRT_HOLD_CALL, &args[5], NULL));
        REQUIRE_OK(pjrt_execute(p, args, 6, NULL, 0, outs, NULL));
        CHECK_OK(pjrt_download_now(c, outs[0], logits, sizeof logits));
        bool gone = false;
        CHECK_OK(pjrt_buffer_deleted(c, args[3], &gone));
        CHECK(gone);                                /* donate_argnums came along */
        for (int i = 3; i < 6; i++) pjrt_buffer_free(c, args[i]);
        pjrt_buffer_free(c, outs[0]);
        args[3] = outs[1];
        token = 0;
        for (int i = 1; i < VOCAB; i++)
            if (logits[i] > logits[token]) token = i;
        int next = -1;
        REQUIRE(fscanf(want, "%d", &next) == 1);
        CHECK_INT(token, next);
        for (int i = 0; i < VOCAB; i++) {
            float x;
            REQUIRE(fscanf(want, "%f", &x) == 1);
            CHECK_NEAR(logits[i], x, 1e-5);
        }
    }
    fclose(want);
    for (int i = 0; i < 4; i++) pjrt_buffer_free(c, args[i]);
    pjrt_program_free(p);
}

TEST(a_step_exported_from_jax_runs)
{
    NEED_CPU;
    run_exported(DATA);
}

TEST(a_step_exported_now_runs)
{
    NEED_CPU;
    const char *python = getenv("SYSTOLIC_JAX_PYTHON");     /* a python that has jax */
    if (!python || access(python, X_OK) != 0) SKIP("SYSTOLIC_JAX_PYTHON does not name a python with jax");
    char dir[] = "/tmp/systolic-jax-XXXXXX", command[1000];
    REQUIRE(mkdtemp(dir));
    snprintf(command, sizeof command, "%s " DATA "export_step.py %s", python, dir);
    REQUIRE(system(command) == 0);
    run_exported(dir);
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

static status everything_with_a_plugin(const char *path, const char *dir)
{
    pjrt_plugin *p = NULL;
    pjrt_client *c = NULL;
    pjrt_program *x = NULL;
    pjrt_topology *t = NULL;
    buf b = {0};
    pjrt_buffer *zero[1] = {0};
    const pjrt_value one = { .name = "cpu_device_count", .kind = PJRT_INT, .i64 = 1 };
    status st = pjrt_plugin_open(path, false, &p);
    if (st == ST_OK) st = pjrt_client_open(p, &one, 1, &c);
    if (st == ST_OK) st = pjrt_compile(c, SOURCE(add_one), &(pjrt_compile_options){0}, &x);
    if (st == ST_OK) st = pjrt_program_serialize(x, &b);
    pjrt_program_free(x);
    x = NULL;
    if (st == ST_OK) st = pjrt_program_load(c, b.data, b.len, "x", &x);
    pjrt_cache *cache = NULL;
    if (st == ST_OK) st = pjrt_cache_open(dir, &cache);
    if (c) pjrt_client_use_cache(c, cache);
    if (st == ST_OK) st = pjrt_zeros(c, 1, DT_I8, (int64_t[]){ 4 }, 1, zero);
    if (st == ST_OK) st = pjrt_topology_open(p, "cpu:1", NULL, 0, &t);
    pjrt_target_info info;
    buf_clear(&b);
    if (st == ST_OK) st = pjrt_client_target(c, &info);
    if (st == ST_OK) st = pjrt_topology_target(t, &info);
    if (st == ST_OK) st = pjrt_client_topology(c, &b);
    if (st == ST_OK) st = pjrt_topology_write(t, &b);
    if (c) pjrt_buffer_free(c, zero[0]);
    pjrt_cache_close(cache);
    pjrt_program_free(x);
    pjrt_topology_close(t);
    pjrt_client_close(c);
    pjrt_plugin_close(p);
    buf_free(&b);
    return st;
}

TEST(out_of_memory_with_a_plugin)
{
    NEED_CPU;
    char dir[] = "/tmp/systolic-cache-XXXXXX", command[300];
    REQUIRE(mkdtemp(dir));
    EVERY_ALLOCATION_FAILS(everything_with_a_plugin(plugin_path, dir));
    snprintf(command, sizeof command, "rm -r %s", dir);
    CHECK(system(command) == 0);
}

TEST(the_client_closes)
{
    NEED_CPU;
    if (!plugin) SKIP("it was not opened");
    pjrt_client_close(cpu());
    pjrt_plugin_close(plugin);
    pjrt_plugin *again;
    REQUIRE_OK(pjrt_plugin_open(plugin_path, false, &again));   /* a second time in one process */
    pjrt_plugin_close(again);
}

TEST_MAIN
