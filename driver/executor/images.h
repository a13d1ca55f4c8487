/* SPDX-License-Identifier: Apache-2.0 */
/*
 * images.h: the code that a program has sent: images by their SHA-256, put together from blocks, which the block cache
 * may hold and learns, and loaded into the GPU's context once; their kernels and variables by name.
 *
 *   unknown --offered--> parts missing --all there, digest right--> whole --loaded--> loaded, or refused by the driver
 *                                       --digest wrong--> unknown
 *
 * locks: none. Used by one thread, with the context current.
 */
#ifndef GBX_IMAGES_H
#define GBX_IMAGES_H

#include "cache.h"
#include "driver.h"
#include "run_batch.h"

/* How something ended. */
struct gbx_outcome {
  uint32_t status; /* enum gb_run_status */
  int32_t cuda_error;
};

struct gbx_image;

struct gbx_images {
  const struct gbx_driver *driver;
  struct gbx_block_cache *cache;
  uint32_t count;
  uint64_t bytes; /* of all */
  struct gbx_image *places[1024];
};

void gbx_images_open(struct gbx_images *images, const struct gbx_driver *driver, struct gbx_block_cache *cache);

/* IMAGE: looks for what is missing in the cache and says in `bitmap` ((block_count + 7) / 8 bytes of zeroes) what it
 * did not find; an image that is whole is loaded. returns: GB_RUN_UNSUPPORTED: this GPU cannot run it; GB_RUN_LIMIT;
 * GB_RUN_INVALID: known by another size, or its bytes are not what its digest says. */
struct gbx_outcome gbx_images_offer(struct gbx_images *images, const struct gb_run_image *image,
                                    const uint8_t *digests, uint8_t *bitmap);

/* IMAGE_PART: the parts of a block come in order; what is there already is passed over. */
struct gbx_outcome gbx_images_part(struct gbx_images *images, const struct gb_run_image_part *part,
                                   const uint8_t *bytes);

/* A kernel by its name (with NUL), with the bytes of its parameters, or UINT64_MAX where the driver cannot tell. */
struct gbx_outcome gbx_images_function(struct gbx_images *images, const uint8_t *digest, const char *name,
                                       CUfunction *function, uint64_t *param_bytes);

/* A variable by its name (with NUL). */
struct gbx_outcome gbx_images_symbol(struct gbx_images *images, const uint8_t *digest, const char *name,
                                     CUdeviceptr *address, size_t *bytes);

/* Forgets all of them; what the driver has loaded stays. For tests. */
void gbx_images_close(struct gbx_images *images);

#endif
