/* SPDX-License-Identifier: Apache-2.0 */
/* array.c: arrays as plain rows in device memory, charged like any allocation, and copies to and
 * from them. */
#include "sim.h"

static size_t format_bytes(CUarray_format format) {
  switch (format) {
    case CU_AD_FORMAT_UNSIGNED_INT8:
    case CU_AD_FORMAT_SIGNED_INT8: return 1;
    case CU_AD_FORMAT_UNSIGNED_INT16:
    case CU_AD_FORMAT_SIGNED_INT16:
    case CU_AD_FORMAT_HALF: return 2;
    case CU_AD_FORMAT_UNSIGNED_INT32:
    case CU_AD_FORMAT_SIGNED_INT32:
    case CU_AD_FORMAT_FLOAT: return 4;
    default: return 0;
  }
}

static CUresult array_new(CUarray *out, const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  const size_t element = format_bytes(descriptor->Format) * descriptor->NumChannels;
  const size_t height = descriptor->Height == 0 ? 1 : descriptor->Height,
               depth = descriptor->Depth == 0 ? 1 : descriptor->Depth;
  if (element == 0 || descriptor->Width == 0 || descriptor->Width > 1 << 17 || height > 1 << 17 ||
      depth > 1 << 14)
    return CUDA_ERROR_INVALID_VALUE;
  struct sim_array *array = calloc(1, sizeof *array);
  if (array == NULL) return CUDA_ERROR_OUT_OF_MEMORY;
  array->descriptor = *descriptor;
  array->row_bytes = element * descriptor->Width;
  array->height = height;
  array->depth = depth;
  pthread_mutex_lock(&sim_lock);
  CUresult result = sim_capture_guard();
  if (result == CUDA_SUCCESS)
    result = sim_device_alloc(sim_current(), SIM_REGION_DEVICE, array->row_bytes * height * depth,
                              &array->address);
  pthread_mutex_unlock(&sim_lock);
  if (result != CUDA_SUCCESS) {
    free(array);
    return result;
  }
  sim_handle_add(SIM_ARRAY, array);
  *out = (CUarray)array;
  return CUDA_SUCCESS;
}

CUresult cuArray3DCreate_v2(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  return array == NULL || descriptor == NULL ? CUDA_ERROR_INVALID_VALUE
                                             : array_new(array, descriptor);
}

CUresult cuArrayCreate_v2(CUarray *array, const CUDA_ARRAY_DESCRIPTOR *flat) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  if (array == NULL || flat == NULL) return CUDA_ERROR_INVALID_VALUE;
  const CUDA_ARRAY3D_DESCRIPTOR descriptor = {.Width = flat->Width,
                                              .Height = flat->Height,
                                              .Format = flat->Format,
                                              .NumChannels = flat->NumChannels};
  return array_new(array, &descriptor);
}

CUresult cuArrayDestroy(CUarray handle) {
  SIM_ENTER(SIM_NEED_INIT);
  pthread_mutex_lock(&sim_lock);
  CUresult result = CUDA_SUCCESS;
  if (!sim_handle_is(SIM_ARRAY, handle)) {
    result = sim_strict(CUDA_ERROR_INVALID_HANDLE, "destroy of array %p", (void *)handle);
  } else {
    struct sim_array *array = (struct sim_array *)handle;
    struct sim_region *region = sim_region_find(array->address);
    sim_handle_remove(array);
    if (region != NULL) result = sim_context_wait(region->context);
    region = sim_region_find(array->address);
    if (region != NULL) sim_region_free(region);
    free(array);
  }
  pthread_mutex_unlock(&sim_lock);
  return result;
}

CUresult cuArray3DGetDescriptor_v2(CUDA_ARRAY3D_DESCRIPTOR *descriptor, CUarray array) {
  SIM_ENTER(SIM_NEED_INIT);
  if (descriptor == NULL) return CUDA_ERROR_INVALID_VALUE;
  if (!sim_handle_is(SIM_ARRAY, array)) return CUDA_ERROR_INVALID_HANDLE;
  *descriptor = ((const struct sim_array *)array)->descriptor;
  return CUDA_SUCCESS;
}

CUresult cuArrayGetDescriptor_v2(CUDA_ARRAY_DESCRIPTOR *flat, CUarray array) {
  CUDA_ARRAY3D_DESCRIPTOR descriptor;
  const CUresult result =
      flat == NULL ? CUDA_ERROR_INVALID_VALUE : cuArray3DGetDescriptor_v2(&descriptor, array);
  if (result == CUDA_SUCCESS)
    *flat = (CUDA_ARRAY_DESCRIPTOR){descriptor.Width, descriptor.Height, descriptor.Format,
                                    descriptor.NumChannels};
  return result;
}

CUresult cuArrayGetMemoryRequirements(CUDA_ARRAY_MEMORY_REQUIREMENTS *requirements, CUarray handle,
                                      CUdevice device) {
  SIM_ENTER(SIM_NEED_INIT);
  if (requirements == NULL || device < 0 || device >= sim_config.devices)
    return CUDA_ERROR_INVALID_VALUE;
  if (!sim_handle_is(SIM_ARRAY, handle)) return CUDA_ERROR_INVALID_HANDLE;
  const struct sim_array *array = (const struct sim_array *)handle;
  *requirements = (CUDA_ARRAY_MEMORY_REQUIREMENTS){
      .size = array->row_bytes * array->height * array->depth, .alignment = SIM_ALLOC_ALIGN};
  return CUDA_SUCCESS;
}

/* ---- one-dimensional copies to and from arrays ---- */

static CUresult line(CUstream stream, CUstream fallback, CUarray dst_array, CUdeviceptr dst,
                     void *dst_host, size_t dst_at, CUarray src_array, CUdeviceptr src,
                     const void *src_host, size_t src_at, size_t bytes, bool async) {
  const CUDA_MEMCPY3D what = {.srcMemoryType = src_array != NULL  ? CU_MEMORYTYPE_ARRAY
                                               : src_host != NULL ? CU_MEMORYTYPE_HOST
                                                                  : CU_MEMORYTYPE_DEVICE,
                              .srcArray = src_array,
                              .srcDevice = src,
                              .srcHost = src_host,
                              .srcXInBytes = src_at,
                              .dstMemoryType = dst_array != NULL  ? CU_MEMORYTYPE_ARRAY
                                               : dst_host != NULL ? CU_MEMORYTYPE_HOST
                                                                  : CU_MEMORYTYPE_DEVICE,
                              .dstArray = dst_array,
                              .dstDevice = dst,
                              .dstHost = dst_host,
                              .dstXInBytes = dst_at,
                              .WidthInBytes = bytes,
                              .Height = 1,
                              .Depth = 1};
  return sim_copy3d(stream, fallback, &what, async);
}

#define LINE(name, parameters, stream, fallback, async, ...) \
  CUresult name parameters {                                 \
    SIM_ENTER(SIM_NEED_CONTEXT);                             \
    return line(stream, fallback, __VA_ARGS__, async);       \
  }
#define LINE_SYNC(name, parameters, ...)                                        \
  LINE(name, parameters, NULL, CU_STREAM_LEGACY, false, __VA_ARGS__)            \
  LINE(name##_ptds, parameters, NULL, CU_STREAM_PER_THREAD, false, __VA_ARGS__)
#define LINE_ASYNC(name, parameters, ...)                                        \
  LINE(name, parameters, stream, CU_STREAM_LEGACY, true, __VA_ARGS__)            \
  LINE(name##_ptsz, parameters, stream, CU_STREAM_PER_THREAD, true, __VA_ARGS__)

LINE_SYNC(cuMemcpyDtoA_v2, (CUarray dst, size_t at, CUdeviceptr src, size_t bytes), dst, 0, NULL,
          at, NULL, src, NULL, 0, bytes)
LINE_SYNC(cuMemcpyAtoD_v2, (CUdeviceptr dst, CUarray src, size_t at, size_t bytes), NULL, dst, NULL,
          0, src, 0, NULL, at, bytes)
LINE_SYNC(cuMemcpyHtoA_v2, (CUarray dst, size_t at, const void *src, size_t bytes), dst, 0, NULL,
          at, NULL, 0, src, 0, bytes)
LINE_SYNC(cuMemcpyAtoH_v2, (void *dst, CUarray src, size_t at, size_t bytes), NULL, 0, dst, 0, src,
          0, NULL, at, bytes)
LINE_SYNC(cuMemcpyAtoA_v2, (CUarray dst, size_t at, CUarray src, size_t from, size_t bytes), dst, 0,
          NULL, at, src, 0, NULL, from, bytes)
LINE_ASYNC(cuMemcpyHtoAAsync_v2,
           (CUarray dst, size_t at, const void *src, size_t bytes, CUstream stream), dst, 0, NULL,
           at, NULL, 0, src, 0, bytes)
LINE_ASYNC(cuMemcpyAtoHAsync_v2, (void *dst, CUarray src, size_t at, size_t bytes, CUstream stream),
           NULL, 0, dst, 0, src, 0, NULL, at, bytes)
