#include <openssl/err.h>
#include <openssl/ssl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "http/internal.h"

enum { N_FILES = 3 };

struct tls {
    SSL_CTX *ctx;
    http_options o;               /* its strings are those below */
    char *names[N_FILES + 1];     /* certificate, key, authorities, ciphers; or NULL */
    struct timespec changed[N_FILES];
    double checked_at;
};

/* "what FILE: reason" with OpenSSL's reason. */
static status failed(const char *what, const char *file)
{
    unsigned long e = ERR_peek_error(); /* the first one is the cause */
    const char *why = ERR_reason_error_string(e);
    if (ERR_GET_LIB(e) == ERR_LIB_SYS) why = strerror(ERR_GET_REASON(e));
    status st = err_set(ST_INVALID, "%s '%s': %s", what, file, why ? why : "unknown reason");
    ERR_clear_error();
    return st;
}

/* A key that needs a passphrase is an error here: a server must not wait at a terminal. */
static int no_passphrase(char *dst, int cap, int rwflag, void *arg)
{
    (void)dst; (void)cap; (void)rwflag; (void)arg;
    return 0;
}

static int choose_protocol(SSL *s, const unsigned char **out, unsigned char *out_len, const unsigned char *in, unsigned in_len, void *arg)
{
    (void)s; (void)arg;
    static const unsigned char http11[] = "\x08http/1.1";
    unsigned char *picked = NULL;
    if (SSL_select_next_proto(&picked, out_len, http11, sizeof http11 - 1, in, in_len) != OPENSSL_NPN_NEGOTIATED) return SSL_TLSEXT_ERR_NOACK;
    *out = picked;
    return SSL_TLSEXT_ERR_OK;
}

static status load_certificate(SSL_CTX *ctx, const http_options *o)
{
    const char *key = o->ssl_keyfile ? o->ssl_keyfile : o->ssl_certfile; /* one file may hold both */
    SSL_CTX_set_default_passwd_cb(ctx, no_passphrase);
    if (SSL_CTX_use_certificate_chain_file(ctx, o->ssl_certfile) != 1) return failed("cannot use the TLS certificate", o->ssl_certfile);
    /* says so, too, if it is not the certificate's */
    if (SSL_CTX_use_PrivateKey_file(ctx, key, SSL_FILETYPE_PEM) != 1) return failed("cannot use the TLS private key", key);
    return ST_OK;
}

static status set_client_check(SSL_CTX *ctx, const http_options *o)
{
    static const int modes[] = { SSL_VERIFY_NONE, SSL_VERIFY_PEER, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT };
    if (o->ssl_cert_reqs < 0 || o->ssl_cert_reqs > 2) return err_set(ST_INVALID, "ssl_cert_reqs %d: expected 0 (none), 1 (optional) or 2 (required)", o->ssl_cert_reqs);
    if (o->ssl_ca_certs) {
        if (SSL_CTX_load_verify_locations(ctx, o->ssl_ca_certs, NULL) != 1) return failed("cannot use the TLS certificate authorities", o->ssl_ca_certs);
        STACK_OF(X509_NAME) *names = SSL_load_client_CA_file(o->ssl_ca_certs);
        if (names) SSL_CTX_set_client_CA_list(ctx, names);
    } else if (o->ssl_cert_reqs && SSL_CTX_set_default_verify_paths(ctx) != 1) {
        return failed("cannot use the TLS certificate authorities", "system default");
    }
    SSL_CTX_set_verify(ctx, modes[o->ssl_cert_reqs], NULL);
    SSL_CTX_set_session_id_context(ctx, (const unsigned char *)"systolic", 8); /* resumption with client certificates needs one */
    return ST_OK;
}

static status configure(SSL_CTX *ctx, const http_options *o)
{
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_options(ctx, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(ctx, SSL_MODE_RELEASE_BUFFERS | SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
    SSL_CTX_set_alpn_select_cb(ctx, choose_protocol, NULL);
    if (o->ssl_ciphers && SSL_CTX_set_cipher_list(ctx, o->ssl_ciphers) != 1) return failed("no TLS cipher matches", o->ssl_ciphers);
    TRY(load_certificate(ctx, o));
    return set_client_check(ctx, o);
}

static status make_context(const http_options *o, SSL_CTX **out)
{
    ERR_clear_error();
    SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
    status st = ctx ? configure(ctx, o) : err_nomem();
    if (st != ST_OK) {
        SSL_CTX_free(ctx);
        return st;
    }
    *out = ctx;
    return ST_OK;
}

/* Notes when the files changed last; true if that differs from the last time. */
static bool note_changes(tls *t)
{
    bool differs = false;
    for (int i = 0; i < N_FILES; i++) {
        struct stat sb;
        if (!t->names[i] || stat(t->names[i], &sb) != 0) continue;
        differs |= sb.st_mtim.tv_sec != t->changed[i].tv_sec || sb.st_mtim.tv_nsec != t->changed[i].tv_nsec;
        t->changed[i] = sb.st_mtim;
    }
    return differs;
}

status tls_open(const http_options *o, tls **out)
{
    tls *t = mem_calloc(1, sizeof *t);
    if (!t) return err_nomem();
    t->o = *o;
    const char **fields[] = { &t->o.ssl_certfile, &t->o.ssl_keyfile, &t->o.ssl_ca_certs, &t->o.ssl_ciphers };
    status st = ST_OK;
    for (int i = 0; i <= N_FILES && st == ST_OK; i++) {
        if (*fields[i] && !(t->names[i] = mem_strdup(*fields[i]))) st = err_nomem();
        *fields[i] = t->names[i];
    }
    note_changes(t);
    if (st == ST_OK) st = make_context(&t->o, &t->ctx);
    if (st != ST_OK) {
        tls_close(t);
        return st;
    }
    *out = t;
    return ST_OK;
}

/* Looked at when a client connects, at most once a second: no timer, no watcher. Sessions hold their own reference to the
 * context they began with. */
static void refresh(tls *t)
{
    double now = clock_now();
    SSL_CTX *ctx = NULL;
    if (now < t->checked_at + 1) return;
    t->checked_at = now;
    if (!note_changes(t)) return;
    if (make_context(&t->o, &ctx) != ST_OK) {
        log_error("the changed TLS files are not used: %s", err_msg());
        return;
    }
    SSL_CTX_free(t->ctx);
    t->ctx = ctx;
    log_info("TLS certificate loaded anew from %s", t->names[0]);
}

struct ssl_st *tls_session(tls *t)
{
    if (t->o.ssl_refresh) refresh(t);
    return SSL_new(t->ctx);
}

void tls_session_free(struct ssl_st *s) { SSL_free(s); }

void tls_goodbye(struct ssl_st *s)
{
    if (!s || !SSL_is_init_finished(s)) return;
    SSL_shutdown(s);
    ERR_clear_error();
}

void tls_close(tls *t)
{
    if (!t) return;
    SSL_CTX_free(t->ctx);
    for (int i = 0; i <= N_FILES; i++) mem_free(t->names[i]);
    mem_free(t);
}
