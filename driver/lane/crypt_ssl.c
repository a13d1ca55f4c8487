/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crypt_ssl.c: AES-256-GCM, ChaCha20-Poly1305, HKDF, HMAC and SHA-256 by the system's libcrypto.so.3, loaded when the
 * first lane opens, in its own name space and library context (a program or Node may bring another OpenSSL).
 */
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "crypt.h"
#include "lane.h"

#define LIBRARY "libcrypto.so.3"
/* openssl/evp.h, openssl/crypto.h and openssl/core.h, stable through OpenSSL 3. */
#define CTRL_GET_TAG 0x10
#define CTRL_SET_TAG 0x11
#define INIT_NO_ATEXIT 0x00080000L
#define PARAM_UTF8_STRING 4u
#define PARAM_OCTET_STRING 5u

typedef struct evp_cipher evp_cipher;
typedef struct evp_cipher_ctx evp_cipher_ctx;
typedef struct evp_md evp_md;
typedef struct evp_kdf evp_kdf;
typedef struct evp_kdf_ctx evp_kdf_ctx;
typedef struct ossl_lib_ctx ossl_lib_ctx;
struct ossl_param {
  const char *key;
  unsigned int data_type;
  void *data;
  size_t data_size;
  size_t return_size;
};

/* Every function of it, once: name, result, parameters. */
#define FUNCTIONS(F)                                                                                        \
  F(OPENSSL_init_crypto, int, (uint64_t options, const void *settings))                                     \
  F(OSSL_LIB_CTX_new, ossl_lib_ctx *, (void))                                                               \
  F(EVP_CIPHER_fetch, evp_cipher *, (ossl_lib_ctx *, const char *name, const char *properties))             \
  F(EVP_CIPHER_CTX_new, evp_cipher_ctx *, (void))                                                           \
  F(EVP_CIPHER_CTX_free, void, (evp_cipher_ctx *))                                                          \
  F(EVP_CIPHER_CTX_ctrl, int, (evp_cipher_ctx *, int type, int argument, void *pointer))                    \
  F(EVP_CipherInit_ex, int, (evp_cipher_ctx *, const evp_cipher *, void *engine, const unsigned char *key,  \
                             const unsigned char *iv, int encrypt))                                         \
  F(EVP_CipherUpdate, int, (evp_cipher_ctx *, unsigned char *out, int *out_length, const unsigned char *in, \
                            int in_length))                                                                 \
  F(EVP_CipherFinal_ex, int, (evp_cipher_ctx *, unsigned char *out, int *out_length))                       \
  F(EVP_MD_fetch, evp_md *, (ossl_lib_ctx *, const char *name, const char *properties))                     \
  F(EVP_Digest, int, (const void *data, size_t count, unsigned char *out, unsigned int *length,             \
                      const evp_md *, void *engine))                                                        \
  F(EVP_KDF_fetch, evp_kdf *, (ossl_lib_ctx *, const char *name, const char *properties))                   \
  F(EVP_KDF_CTX_new, evp_kdf_ctx *, (evp_kdf *))                                                            \
  F(EVP_KDF_CTX_free, void, (evp_kdf_ctx *))                                                                \
  F(EVP_KDF_derive, int, (evp_kdf_ctx *, unsigned char *key, size_t length, const struct ossl_param *))     \
  F(EVP_Q_mac, unsigned char *, (ossl_lib_ctx *, const char *name, const char *properties,                  \
                                 const char *subalgorithm, const struct ossl_param *, const void *key,      \
                                 size_t key_length, const unsigned char *data, size_t data_length,          \
                                 unsigned char *out, size_t out_size, size_t *out_length))                  \
  F(CRYPTO_memcmp, int, (const void *a, const void *b, size_t length))

#define DECLARE(name, result, parameters) result(*name) parameters;
static struct {
  FUNCTIONS(DECLARE)
} ssl;

static struct {
  ossl_lib_ctx *library;
  evp_cipher *gcm;
  evp_cipher *chacha;
  evp_md *sha256;
  evp_kdf *hkdf;
} own;

static bool find_all(void *handle) {
#define ROW(name, result, parameters) {&ssl.name, #name},
  const struct {
    void *to;
    const char *name;
  } rows[] = {FUNCTIONS(ROW)};
  for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
    void *found = dlsym(handle, rows[i].name);
    if (found == NULL) return false;
    memcpy(rows[i].to, &found, sizeof found);
  }
  return true;
}

bool lane_ssl_load(void) {
  int how = RTLD_NOW | RTLD_LOCAL;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(LANE_NO_DEEPBIND)
  how |= RTLD_DEEPBIND; /* the process may export functions of the same names; sanitizers forbid it */
#endif
  void *handle = dlopen(LIBRARY, how);
  if (handle == NULL) return false;
  if (!find_all(handle)) return false;
  /* Our threads may still be at work when exit handlers run: the library must not clean up then. */
  if (ssl.OPENSSL_init_crypto(INIT_NO_ATEXIT, NULL) != 1) return false;
  own.library = ssl.OSSL_LIB_CTX_new();
  if (own.library == NULL) return false;
  own.gcm = ssl.EVP_CIPHER_fetch(own.library, "AES-256-GCM", NULL);
  own.chacha = ssl.EVP_CIPHER_fetch(own.library, "ChaCha20-Poly1305", NULL);
  own.sha256 = ssl.EVP_MD_fetch(own.library, "SHA256", NULL);
  own.hkdf = ssl.EVP_KDF_fetch(own.library, "HKDF", NULL);
  return own.gcm != NULL && own.sha256 != NULL && own.hkdf != NULL;
}

/* ---- AEAD ---- */

struct context {
  evp_cipher_ctx *evp;
  int sealing;
};

static void destroy(void *opaque) {
  struct context *context = opaque;
  if (context == NULL) return;
  ssl.EVP_CIPHER_CTX_free(context->evp); /* wipes the expanded key */
  free(context);
}

static void *create(const evp_cipher *cipher, const uint8_t *key, bool sealing) {
  struct context *context = calloc(1, sizeof *context);
  if (context == NULL) return NULL;
  context->sealing = sealing;
  context->evp = ssl.EVP_CIPHER_CTX_new();
  if (context->evp != NULL &&
      ssl.EVP_CipherInit_ex(context->evp, cipher, NULL, key, NULL, context->sealing) == 1)
    return context;
  destroy(context);
  return NULL;
}

static void *create_gcm(const uint8_t *key, bool sealing) {
  return create(own.gcm, key, sealing);
}

static void *create_chacha(const uint8_t *key, bool sealing) {
  return create(own.chacha, key, sealing);
}

static bool begin(void *opaque, const uint8_t *nonce) {
  struct context *context = opaque;
  return ssl.EVP_CipherInit_ex(context->evp, NULL, NULL, NULL, nonce, context->sealing) == 1;
}

static bool update(void *opaque, const void *in, void *out, size_t bytes) {
  struct context *context = opaque;
  int done = 0;
  return bytes <= INT_MAX && ssl.EVP_CipherUpdate(context->evp, out, &done, in, (int)bytes) == 1 &&
         done == (int)bytes;
}

static bool make_tag(void *opaque, uint8_t *tag) {
  struct context *context = opaque;
  unsigned char rest[16];
  int done = 0;
  return ssl.EVP_CipherFinal_ex(context->evp, rest, &done) == 1 && done == 0 &&
         ssl.EVP_CIPHER_CTX_ctrl(context->evp, CTRL_GET_TAG, (int)LANE_TAG_BYTES, tag) == 1;
}

static bool verify(void *opaque, const uint8_t *tag) {
  struct context *context = opaque;
  unsigned char expected[LANE_TAG_BYTES], rest[16];
  int done = 0;
  memcpy(expected, tag, sizeof expected);
  return ssl.EVP_CIPHER_CTX_ctrl(context->evp, CTRL_SET_TAG, (int)LANE_TAG_BYTES, expected) == 1 &&
         ssl.EVP_CipherFinal_ex(context->evp, rest, &done) == 1 && done == 0;
}

void lane_ssl_aead(struct lane_aead *aead, uint32_t cipher) {
  *aead = (struct lane_aead){.cipher = cipher,
                             .provider = GB_LANE_PROVIDER_OPENSSL,
                             .name = "OpenSSL 3",
                             .create = cipher == GB_LANE_CIPHER_AES_256_GCM ? create_gcm : create_chacha,
                             .destroy = destroy,
                             .begin = begin,
                             .update = update,
                             .tag = make_tag,
                             .verify = verify};
}

/* ---- HKDF, HMAC ---- */

bool lane_hkdf(const void *secret, size_t secret_bytes, const void *salt, size_t salt_bytes, const void *info,
               size_t info_bytes, void *out, size_t out_bytes) {
  evp_kdf_ctx *context = ssl.EVP_KDF_CTX_new(own.hkdf);
  if (context == NULL) return false;
  /* The parameters are not written to. */
  const struct ossl_param parameters[] = {
      {"digest", PARAM_UTF8_STRING, (void *)"SHA256", 6, 0},
      {"key", PARAM_OCTET_STRING, (void *)(uintptr_t)secret, secret_bytes, 0},
      {"salt", PARAM_OCTET_STRING, (void *)(uintptr_t)salt, salt_bytes, 0},
      {"info", PARAM_OCTET_STRING, (void *)(uintptr_t)info, info_bytes, 0},
      {NULL, 0, NULL, 0, 0}};
  bool right = ssl.EVP_KDF_derive(context, out, out_bytes, parameters) == 1;
  ssl.EVP_KDF_CTX_free(context);
  return right;
}

bool lane_hmac(const void *key, size_t key_bytes, const void *data, size_t data_bytes, uint8_t *out) {
  size_t length = 0;
  return ssl.EVP_Q_mac(own.library, "HMAC", NULL, "SHA256", NULL, key, key_bytes, data, data_bytes, out, 32,
                       &length) != NULL &&
         length == 32;
}

bool lane_sha256(const void *data, size_t data_bytes, uint8_t *out) {
  unsigned int length = 0;
  return ssl.EVP_Digest(data, data_bytes, out, &length, own.sha256, NULL) == 1 && length == 32;
}

bool lane_equal(const void *a, const void *b, size_t bytes) {
  return ssl.CRYPTO_memcmp(a, b, bytes) == 0;
}
