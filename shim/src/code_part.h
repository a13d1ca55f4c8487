/* SPDX-License-Identifier: Apache-2.0 */
/* code_part.h: what code.c (images) and code_functions.c (handles, functions, variables) share. Nobody else includes
 * it. */
#ifndef GB_CODE_PART_H
#define GB_CODE_PART_H

#include "code.h"

/* Of all images that are kept at once; what is loaded beyond it runs here only. */
#define GB_CODE_BYTES_MAX (2ull << 30)
#define GB_CODE_IMAGE_BYTES_MAX (1ull << 30)

struct gb_code_function_kept;
struct gb_code_variable_kept;
struct gb_code_load;

/* The bytes of one load; once hashed, of all loads with the same bytes, and kept for good. */
struct gb_code_image {
  struct gb_image is;
  bool hashed;
  bool stateless; /* known to hold no variable: loads of it cannot be told apart */
  /* By group, whose functions may run elsewhere: of variables there is one set in each place. */
  struct gb_code_load *loads[GB_CODE_GROUPS];
  struct gb_code_function_kept *functions;
  struct gb_code_variable_kept *variables;
  struct gb_code_image *next; /* of those that are hashed */
};

/* A copy of what the driver has just loaded. owns: gb_code_image_free, until it is hashed. returns: NULL: of a kind
 * that is not known, beyond a limit, or no memory. Thread-safe. */
struct gb_code_image *gb_code_image_copy(const void *image, bool file);
void gb_code_image_free(struct gb_code_image *image);
/* Names it by its content. returns: the one image with these bytes, `image` freed if it is another; NULL (and freed)
 * when there is no SHA-256. pre: the caller lets nobody else in. */
struct gb_code_image *gb_code_image_hash(struct gb_code_image *image);

#endif
