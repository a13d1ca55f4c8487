/* SPDX-License-Identifier: Apache-2.0 */
/*
 * crypt_ssl.c: AES-256-GCM, ChaCha20-Poly1305, HKDF, HMAC and SHA-256 by the system's libcrypto, loaded when the first
 * lane opens, in its own name space (a program or Node may bring another OpenSSL): OpenSSL 3, in a library context of
 * our own, or 1.1.1, which Debian 11 and Ubuntu 20.04 have.
 */
#include <dlfcn.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include "crypt.h"
#include "lane.h"

#define LIBRARY_3 "libcrypto.so.3"
#define LIBRARY_1 "libcrypto.so.1.1"
/* openssl/evp.h and openssl/crypto.h, the same in both. */
#define CTRL_GET_TAG 0x10
#define CTRL_SET_TAG 0x11
#define INIT_NO_ATEXIT 0x00080000L
#define HASH_BYTES 32u

typedef struct evp_cipher evp_cipher;
typedef struct evp_cipher_ctx evp_cipher_ctx;
typedef struct evp_md evp_md;
typedef struct ossl_lib_ctx ossl_lib_ctx;
struct ossl_param;

/* Every function of it, once: name, result, parameters. */
#define FUNCTIONS(F)                                                                                        \
  F(OPENSSL_init_crypto, int, (uint64_t options, const void *settings))                                     \
  F(EVP_CIPHER_CTX_new, evp_cipher_ctx *, (void))                                                           \
  F(EVP_CIPHER_CTX_free, void, (evp_cipher_ctx *))                                                          \
  F(EVP_CIPHER_CTX_ctrl, int, (evp_cipher_ctx *, int type, int argument, void *pointer))                    \
  F(EVP_CipherInit_ex, int, (evp_cipher_ctx *, const evp_cipher *, void *engine, const unsigned char *key,  \
                             const unsigned char *iv, int encrypt))                                         \
  F(EVP_CipherUpdate, int, (evp_cipher_ctx *, unsigned char *out, int *out_length, const unsigned char *in, \
                            int in_length))                                                                 \
  F(EVP_CipherFinal_ex, int, (evp_cipher_ctx *, unsigned char *out, int *out_length))                       \
  F(EVP_Digest, int, (const void *data, size_t count, unsigned char *out, unsigned int *length,             \
                      const evp_md *, void *engine))                                                        \
  F(CRYPTO_memcmp, int, (const void *a, const void *b, size_t length))

#define FUNCTIONS_3(F)                                                                           \
  F(OSSL_LIB_CTX_new, ossl_lib_ctx *, (void))                                                    \
  F(EVP_CIPHER_fetch, evp_cipher *, (ossl_lib_ctx *, const char *name, const char *properties))  \
  F(EVP_MD_fetch, evp_md *, (ossl_lib_ctx *, const char *name, const char *properties))          \
  F(EVP_Q_mac, unsigned char *, (ossl_lib_ctx *, const char *name, const char *properties,       \
                                 const char *subalgorithm, const struct ossl_param *,            \
                                 const void *key, size_t key_length, const unsigned char *data,  \
                                 size_t data_length, unsigned char *out, size_t out_size,        \
                                 size_t *out_length))

#define FUNCTIONS_1(F)                                                                                 \
  F(EVP_aes_256_gcm, const evp_cipher *, (void))                                                       \
  F(EVP_chacha20_poly1305, const evp_cipher *, (void))                                                 \
  F(EVP_sha256, const evp_md *, (void))                                                                \
  F(HMAC, unsigned char *, (const evp_md *, const void *key, int key_length, const unsigned char *data, \
                            size_t data_length, unsigned char *out, unsigned int *length))

#define DECLARE(name, result, parameters) result(*name) parameters;
static struct {
  FUNCTIONS(DECLARE)
  FUNCTIONS_3(DECLARE)
  FUNCTIONS_1(DECLARE)
} ssl;

static struct {
  ossl_lib_ctx *library; /* NULL: OpenSSL 1.1.1, which knows of none */
  const evp_cipher *gcm;
  const evp_cipher *chacha;
  const evp_md *sha256;
} own;

struct row {
  void *to;
  const char *name;
};
#define ROW(name, result, parameters) {&ssl.name, #name},
static const struct row rows[] = {FUNCTIONS(ROW)};
static const struct row rows_3[] = {FUNCTIONS_3(ROW)};
static const struct row rows_1[] = {FUNCTIONS_1(ROW)};

static bool find_all(void *handle, const struct row *wanted, size_t count) {
  for (size_t i = 0; i < count; i++) {
    void *found = dlsym(handle, wanted[i].name);
    if (found == NULL) return false;
    memcpy(wanted[i].to, &found, sizeof found);
  }
  return true;
}
#define FIND(handle, wanted) find_all(handle, wanted, sizeof wanted / sizeof wanted[0])

static void *open_library(const char *name) {
  int how = RTLD_NOW | RTLD_LOCAL;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && !defined(LANE_NO_DEEPBIND)
  how |= RTLD_DEEPBIND; /* the process may export functions of the same names; sanitizers forbid it */
#endif
  void *handle = dlopen(name, how);
  if (handle == NULL || !FIND(handle, rows)) return NULL;
  /* Our threads may still be at work when exit handlers run: the library must not clean up then. */
  return ssl.OPENSSL_init_crypto(INIT_NO_ATEXIT, NULL) == 1 ? handle : NULL;
}

static bool load_3(void) {
  void *handle = open_library(LIBRARY_3);
  if (handle == NULL || !FIND(handle, rows_3)) return false;
  own.library = ssl.OSSL_LIB_CTX_new();
  if (own.library == NULL) return false;
  own.gcm = ssl.EVP_CIPHER_fetch(own.library, "AES-256-GCM", NULL);
  own.chacha = ssl.EVP_CIPHER_fetch(own.library, "ChaCha20-Poly1305", NULL);
  own.sha256 = ssl.EVP_MD_fetch(own.library, "SHA256", NULL);
  return own.gcm != NULL && own.sha256 != NULL;
}

static bool load_1(void) {
  void *handle = open_library(LIBRARY_1);
  if (handle == NULL || !FIND(handle, rows_1)) return false;
  own.library = NULL;
  own.gcm = ssl.EVP_aes_256_gcm();
  own.chacha = ssl.EVP_chacha20_poly1305();
  own.sha256 = ssl.EVP_sha256();
  return true;
}

bool lane_ssl_load(void) {
  return load_3() || load_1();
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
                             .create = cipher == GB_LANE_CIPHER_AES_256_GCM ? create_gcm : create_chacha,
                             .destroy = destroy,
                             .begin = begin,
                             .update = update,
                             .tag = make_tag,
                             .verify = verify};
  strcpy(aead->name, own.library != NULL ? "OpenSSL 3" : "OpenSSL 1.1.1");
}

/* ---- HKDF, HMAC ---- */

/* RFC 5869, section 2.3: T(i) = HMAC(prk, T(i - 1) | info | i), one after the other until `out` is full. */
static bool expand(const uint8_t *prk, const void *info, size_t info_bytes, uint8_t *out, size_t out_bytes) {
  uint8_t block[HASH_BYTES], input[HASH_BYTES + LANE_HKDF_INFO_MAX + 1];
  size_t before = 0, done = 0;
  bool right = info_bytes <= LANE_HKDF_INFO_MAX && out_bytes <= 255 * HASH_BYTES;
  for (uint8_t i = 1; right && done < out_bytes; i++) {
    memcpy(input, block, before);
    if (info_bytes > 0) memcpy(input + before, info, info_bytes);
    input[before + info_bytes] = i;
    right = lane_hmac(prk, HASH_BYTES, input, before + info_bytes + 1, block);
    size_t part = out_bytes - done < HASH_BYTES ? out_bytes - done : HASH_BYTES;
    if (right) memcpy(out + done, block, part);
    done += part;
    before = HASH_BYTES;
  }
  explicit_bzero(block, sizeof block);
  explicit_bzero(input, sizeof input);
  return right;
}

bool lane_hkdf(const void *secret, size_t secret_bytes, const void *salt, size_t salt_bytes, const void *info,
               size_t info_bytes, void *out, size_t out_bytes) {
  uint8_t prk[HASH_BYTES];
  bool right =
      lane_hmac(salt, salt_bytes, secret, secret_bytes, prk) && expand(prk, info, info_bytes, out, out_bytes);
  explicit_bzero(prk, sizeof prk);
  return right;
}

bool lane_hmac(const void *key, size_t key_bytes, const void *data, size_t data_bytes, uint8_t *out) {
  size_t length = 0;
  unsigned int length_1 = 0;
  if (own.library != NULL)
    return ssl.EVP_Q_mac(own.library, "HMAC", NULL, "SHA256", NULL, key, key_bytes, data, data_bytes, out,
                         HASH_BYTES, &length) != NULL &&
           length == HASH_BYTES;
  return key_bytes <= INT_MAX &&
         ssl.HMAC(own.sha256, key, (int)key_bytes, data, data_bytes, out, &length_1) != NULL &&
         length_1 == HASH_BYTES;
}

bool lane_sha256(const void *data, size_t data_bytes, uint8_t *out) {
  unsigned int length = 0;
  return ssl.EVP_Digest(data, data_bytes, out, &length, own.sha256, NULL) == 1 && length == 32;
}

bool lane_equal(const void *a, const void *b, size_t bytes) {
  return ssl.CRYPTO_memcmp(a, b, bytes) == 0;
}
