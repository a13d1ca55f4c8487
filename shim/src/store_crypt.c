/* SPDX-License-Identifier: Apache-2.0 */
/*
 * store_crypt.c: AES-256-GCM by the system's libcrypto (OpenSSL 3, or 1.1.1), loaded when a store is opened and seen by
 * nobody else. The key is made here and leaves this process never; nonces are the sequence number of
 * the write and the block's place in it, so none comes twice.
 */
#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>

#include "core.h"
#include "store_part.h"

#define LIBRARY_3 "libcrypto.so.3"
#define LIBRARY_1 "libcrypto.so.1.1"
#define KEY_BYTES 32u
#define NONCE_BYTES 12u
/* Blocks being sealed or unsealed at one moment; one more waits for a context. */
#define CONTEXTS 16u
/* openssl/evp.h and openssl/crypto.h, the same in both. */
#define CTRL_GET_TAG 0x10
#define CTRL_SET_TAG 0x11
#define INIT_NO_ATEXIT 0x00080000L

typedef struct evp_cipher evp_cipher;
typedef struct evp_cipher_ctx evp_cipher_ctx;
typedef struct ossl_lib_ctx ossl_lib_ctx;

static struct {
  int (*OPENSSL_init_crypto)(uint64_t options, const void *settings);
  ossl_lib_ctx *(*OSSL_LIB_CTX_new)(void);
  void (*OSSL_LIB_CTX_free)(ossl_lib_ctx *);
  evp_cipher *(*EVP_CIPHER_fetch)(ossl_lib_ctx *, const char *name, const char *properties);
  void (*EVP_CIPHER_free)(evp_cipher *);
  evp_cipher_ctx *(*EVP_CIPHER_CTX_new)(void);
  void (*EVP_CIPHER_CTX_free)(evp_cipher_ctx *);
  int (*EVP_CIPHER_CTX_ctrl)(evp_cipher_ctx *, int type, int argument, void *pointer);
  int (*EVP_CipherInit_ex)(evp_cipher_ctx *, const evp_cipher *, void *engine,
                           const unsigned char *key, const unsigned char *iv, int encrypt);
  int (*EVP_CipherUpdate)(evp_cipher_ctx *, unsigned char *out, int *out_length,
                          const unsigned char *in, int in_length);
  int (*EVP_CipherFinal_ex)(evp_cipher_ctx *, unsigned char *out, int *out_length);
  const evp_cipher *(*EVP_aes_256_gcm)(void); /* OpenSSL 1.1.1 alone: it has no library contexts */
} ssl;

static struct {
  pthread_mutex_t lock;
  pthread_cond_t returned;
  bool loaded; /* the library */
  ossl_lib_ctx *library; /* our own: the program's providers and settings do not reach it */
  evp_cipher *fetched;   /* from it */
  const evp_cipher *cipher;
  evp_cipher_ctx *contexts[CONTEXTS]; /* free ones first */
  uint32_t made;
  uint32_t free_count;
  unsigned char *key; /* a page of its own */
} crypt = {.lock = PTHREAD_MUTEX_INITIALIZER, .returned = PTHREAD_COND_INITIALIZER};

/* ---- the library ---- */

struct function {
  void *to;
  const char *name;
};
static const struct function both[] = {{&ssl.OPENSSL_init_crypto, "OPENSSL_init_crypto"},
                                       {&ssl.EVP_CIPHER_CTX_new, "EVP_CIPHER_CTX_new"},
                                       {&ssl.EVP_CIPHER_CTX_free, "EVP_CIPHER_CTX_free"},
                                       {&ssl.EVP_CIPHER_CTX_ctrl, "EVP_CIPHER_CTX_ctrl"},
                                       {&ssl.EVP_CipherInit_ex, "EVP_CipherInit_ex"},
                                       {&ssl.EVP_CipherUpdate, "EVP_CipherUpdate"},
                                       {&ssl.EVP_CipherFinal_ex, "EVP_CipherFinal_ex"}};
static const struct function only_3[] = {{&ssl.OSSL_LIB_CTX_new, "OSSL_LIB_CTX_new"},
                                         {&ssl.OSSL_LIB_CTX_free, "OSSL_LIB_CTX_free"},
                                         {&ssl.EVP_CIPHER_fetch, "EVP_CIPHER_fetch"},
                                         {&ssl.EVP_CIPHER_free, "EVP_CIPHER_free"}};
static const struct function only_1[] = {{&ssl.EVP_aes_256_gcm, "EVP_aes_256_gcm"}};

static bool find_all(void *handle, const struct function *functions, size_t count) {
  for (size_t i = 0; i < count; i++) {
    void *found = dlsym(handle, functions[i].name);
    if (found == NULL) {
      gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused", "T3: libcrypto has no %s",
               functions[i].name);
      return false;
    }
    memcpy(functions[i].to, &found, sizeof found);
  }
  return true;
}
#define FIND(handle, functions) find_all(handle, functions, sizeof functions / sizeof functions[0])

static int load_library(void) {
  if (crypt.loaded) return 0;
  int how = RTLD_NOW | RTLD_LOCAL;
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  how |= RTLD_DEEPBIND; /* a program may export functions of the same names; sanitizers forbid it */
#endif
  void *three = dlopen(LIBRARY_3, how);
  void *handle = three != NULL ? three : dlopen(LIBRARY_1, how);
  if (handle == NULL) {
    gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
             "T3 needs OpenSSL (sudo apt-get install libssl3): %s", dlerror());
    return -ENOSYS;
  }
  if (!FIND(handle, both)) return -ENOSYS;
  if (!(three != NULL ? FIND(handle, only_3) : FIND(handle, only_1))) return -ENOSYS;
  /* Our threads may still be at work when exit handlers run: the library must not clean up then. */
  crypt.loaded = ssl.OPENSSL_init_crypto(INIT_NO_ATEXIT, NULL) == 1;
  return crypt.loaded ? 0 : -ENOSYS;
}

static void find_cipher(void) {
  if (ssl.EVP_aes_256_gcm != NULL) {
    crypt.cipher = ssl.EVP_aes_256_gcm();
    return;
  }
  crypt.library = ssl.OSSL_LIB_CTX_new();
  if (crypt.library == NULL) return;
  crypt.cipher = crypt.fetched = ssl.EVP_CIPHER_fetch(crypt.library, "AES-256-GCM", NULL);
}

/* ---- one message ---- */

static evp_cipher_ctx *make_context(const unsigned char *key) {
  evp_cipher_ctx *context = ssl.EVP_CIPHER_CTX_new();
  if (context == NULL) return NULL;
  if (ssl.EVP_CipherInit_ex(context, crypt.cipher, NULL, key, NULL, 1) == 1) return context;
  ssl.EVP_CIPHER_CTX_free(context);
  return NULL;
}

static evp_cipher_ctx *take_context(void) {
  pthread_mutex_lock(&crypt.lock);
  /* Contexts are out for the time of one block: no deadline is needed. */
  while (crypt.free_count == 0 && crypt.made == CONTEXTS)
    pthread_cond_wait(&crypt.returned, &crypt.lock);
  evp_cipher_ctx *context = NULL;
  if (crypt.free_count > 0) {
    context = crypt.contexts[--crypt.free_count];
  } else if (crypt.key != NULL && (context = make_context(crypt.key)) != NULL) {
    crypt.made++;
  }
  pthread_mutex_unlock(&crypt.lock);
  return context;
}

static void return_context(evp_cipher_ctx *context) {
  pthread_mutex_lock(&crypt.lock);
  crypt.contexts[crypt.free_count++] = context;
  pthread_cond_signal(&crypt.returned);
  pthread_mutex_unlock(&crypt.lock);
}

static int seal_with(evp_cipher_ctx *context, const unsigned char *nonce, const void *in, void *out,
                     size_t length, unsigned char *tag) {
  int bytes = 0;
  unsigned char rest[16];
  if (ssl.EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 1) != 1 ||
      ssl.EVP_CipherUpdate(context, out, &bytes, in, (int)length) != 1 || bytes != (int)length ||
      ssl.EVP_CipherFinal_ex(context, rest, &bytes) != 1 ||
      ssl.EVP_CIPHER_CTX_ctrl(context, CTRL_GET_TAG, (int)GB_TAG_BYTES, tag) != 1)
    return -EIO;
  return 0;
}

static int unseal_with(evp_cipher_ctx *context, const unsigned char *nonce, const void *in,
                       void *out, size_t length, const unsigned char *tag) {
  int bytes = 0;
  unsigned char rest[16];
  unsigned char expected[GB_TAG_BYTES];
  memcpy(expected, tag, sizeof expected);
  if (ssl.EVP_CipherInit_ex(context, NULL, NULL, NULL, nonce, 0) != 1 ||
      ssl.EVP_CipherUpdate(context, out, &bytes, in, (int)length) != 1 || bytes != (int)length ||
      ssl.EVP_CIPHER_CTX_ctrl(context, CTRL_SET_TAG, (int)GB_TAG_BYTES, expected) != 1)
    return -EIO;
  return ssl.EVP_CipherFinal_ex(context, rest, &bytes) == 1 ? 0 : -EBADMSG;
}

static void make_nonce(uint64_t sequence, uint32_t block, unsigned char nonce[NONCE_BYTES]) {
  memcpy(nonce, &sequence, sizeof sequence);
  memcpy(nonce + sizeof sequence, &block, sizeof block);
}

int gb_crypt_seal(uint64_t sequence, uint32_t block, const void *in, void *out, size_t length,
                  unsigned char tag[GB_TAG_BYTES]) {
  unsigned char nonce[NONCE_BYTES];
  evp_cipher_ctx *context = take_context();
  if (context == NULL) return -ENOMEM;
  make_nonce(sequence, block, nonce);
  int result = seal_with(context, nonce, in, out, length, tag);
  return_context(context);
  return result;
}

int gb_crypt_unseal(uint64_t sequence, uint32_t block, const void *in, void *out, size_t length,
                    const unsigned char tag[GB_TAG_BYTES]) {
  unsigned char nonce[NONCE_BYTES];
  evp_cipher_ctx *context = take_context();
  if (context == NULL) return -ENOMEM;
  make_nonce(sequence, block, nonce);
  int result = unseal_with(context, nonce, in, out, length, tag);
  return_context(context);
  return result;
}

/* ---- life ---- */

/* The known answer of test case 14 of the GCM specification: the library does what we think. */
static bool answers_right(void) {
  static const unsigned char zero[KEY_BYTES];
  static const unsigned char text[16] = {0xce, 0xa7, 0x40, 0x3d, 0x4d, 0x60, 0x6b, 0x6e,
                                         0x07, 0x4e, 0xc5, 0xd3, 0xba, 0xf3, 0x9d, 0x18};
  static const unsigned char tag[16] = {0xd0, 0xd1, 0xc8, 0xa7, 0x99, 0x99, 0x6b, 0xf0,
                                        0x26, 0x5b, 0x98, 0xb5, 0xd4, 0x8a, 0xb9, 0x19};
  unsigned char got[16] = {0};
  unsigned char got_tag[16];
  evp_cipher_ctx *context = make_context(zero);
  if (context == NULL) return false;
  bool right = seal_with(context, zero, got, got, sizeof got, got_tag) == 0 &&
               memcmp(got, text, sizeof got) == 0 && memcmp(got_tag, tag, sizeof tag) == 0 &&
               unseal_with(context, zero, got, got, sizeof got, tag) == 0 &&
               memcmp(got, zero, sizeof got) == 0;
  got_tag[0] ^= 1;
  right = right && unseal_with(context, zero, text, got, sizeof got, got_tag) == -EBADMSG;
  ssl.EVP_CIPHER_CTX_free(context);
  return right;
}

static int make_key(void) {
  void *page = mmap(NULL, GB_STORE_ALIGN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1,
                    0);
  if (page == MAP_FAILED) return -ENOMEM;
  madvise(page, GB_STORE_ALIGN, MADV_DONTDUMP);
  madvise(page, GB_STORE_ALIGN, MADV_WIPEONFORK);
  if (mlock(page, GB_STORE_ALIGN) != 0)
    gb_log(GB_LOG_WARN, "T3's key cannot be locked in memory (%s)", strerror(errno));
  if (getrandom(page, KEY_BYTES, 0) != (ssize_t)KEY_BYTES) {
    munmap(page, GB_STORE_ALIGN);
    return -EIO;
  }
  crypt.key = page;
  return 0;
}

int gb_crypt_open(void) {
  int error = load_library();
  if (error != 0) return error;
  find_cipher();
  error = crypt.cipher != NULL && answers_right() ? make_key() : -ENOSYS;
  if (error == 0) return 0;
  gb_event(GB_LOG_ERROR, CUDA_SUCCESS, "nvme_refused",
           "T3: no AES-256-GCM and key from libcrypto (%s)", strerror(-error));
  gb_crypt_close();
  return error;
}

void gb_crypt_close(void) {
  pthread_mutex_lock(&crypt.lock);
  /* libcrypto wipes the expanded key with the context. */
  while (crypt.free_count > 0) ssl.EVP_CIPHER_CTX_free(crypt.contexts[--crypt.free_count]);
  crypt.made = 0;
  if (crypt.key != NULL) {
    explicit_bzero(crypt.key, KEY_BYTES);
    munmap(crypt.key, GB_STORE_ALIGN);
    crypt.key = NULL;
  }
  if (crypt.fetched != NULL) ssl.EVP_CIPHER_free(crypt.fetched);
  if (crypt.library != NULL) ssl.OSSL_LIB_CTX_free(crypt.library);
  crypt.cipher = crypt.fetched = NULL;
  crypt.library = NULL;
  pthread_mutex_unlock(&crypt.lock);
}
