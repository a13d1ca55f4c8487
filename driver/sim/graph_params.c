/* SPDX-License-Identifier: Apache-2.0 */
/* graph_params.c: parameters and attributes of nodes, asked for and set. */
#include "graph.h"

/* ---- from parameters to an operation ---- */

CUresult sim_kernel_op(const CUDA_KERNEL_NODE_PARAMS *params, struct sim_op **op) {
  const uint32_t grid[3] = {params->gridDimX, params->gridDimY, params->gridDimZ};
  const uint32_t block[3] = {params->blockDimX, params->blockDimY, params->blockDimZ};
  const CUfunction function = params->func != NULL ? params->func : (CUfunction)params->kern;
  return sim_launch_op(function, grid, block, params->sharedMemBytes, params->kernelParams,
                       params->extra, op);
}

CUresult sim_memset_op(const CUDA_MEMSET_NODE_PARAMS *params, struct sim_op **op) {
  if (params->elementSize != 1 && params->elementSize != 2 && params->elementSize != 4)
    return CUDA_ERROR_INVALID_VALUE;
  if (params->width == 0 || params->height == 0) return CUDA_ERROR_INVALID_VALUE;
  return sim_fill_op(params->dst, params->pitch, params->value, params->elementSize, params->width,
                     params->height, op);
}

CUresult sim_host_op(const CUDA_HOST_NODE_PARAMS *params, struct sim_op **op) {
  if (params->fn == NULL) return CUDA_ERROR_INVALID_VALUE;
  *op = sim_op_new(SIM_OP_HOST);
  (*op)->host.run = params->fn;
  (*op)->host.data = params->userData;
  return CUDA_SUCCESS;
}

CUresult sim_params_op(const CUgraphNodeParams *params, CUgraphNodeType type, struct sim_op **op) {
  bool pageable;
  if (params == NULL || params->type != type) return CUDA_ERROR_INVALID_VALUE;
  switch (type) {
    case CU_GRAPH_NODE_TYPE_KERNEL: return sim_kernel_op(&params->kernel, op);
    case CU_GRAPH_NODE_TYPE_MEMCPY: return sim_copy3d_op(&params->memcpy.copyParams, op, &pageable);
    case CU_GRAPH_NODE_TYPE_HOST: return sim_host_op(&params->host, op);
    case CU_GRAPH_NODE_TYPE_MEMSET: {
      CUDA_MEMSET_NODE_PARAMS fill;
      memcpy(&fill, &params->memset, sizeof fill); /* the newer form only adds a context */
      return sim_memset_op(&fill, op);
    }
    default: return CUDA_ERROR_INVALID_VALUE;
  }
}

/* ---- from an operation to parameters ---- */

static struct node *typed(CUgraphNode handle, CUgraphNodeType type) {
  struct node *node = sim_node_of(handle);
  return node != NULL && node->type == type && node->op != NULL ? node : NULL;
}

static void get_kernel(struct node *node, CUDA_KERNEL_NODE_PARAMS *params) {
  const struct sim_kernel_call *call = &node->op->kernel;
  const struct gbsim_kernel *kernel = call->function->kernel;
  void **list = realloc(node->params, (kernel->param_count + 1) * sizeof *list);
  if (list == NULL) abort();
  node->params = list;
  for (uint32_t i = 0; i < kernel->param_count; i++)
    list[i] = node->op->bytes + gbsim_param_offset(kernel, i);
  *params = (CUDA_KERNEL_NODE_PARAMS){.func = (CUfunction)call->function,
                                      .gridDimX = call->grid[0],
                                      .gridDimY = call->grid[1],
                                      .gridDimZ = call->grid[2],
                                      .blockDimX = call->block[0],
                                      .blockDimY = call->block[1],
                                      .blockDimZ = call->block[2],
                                      .sharedMemBytes = call->shared_bytes,
                                      .kernelParams = list};
}

static void get_copy(const struct node *node, CUDA_MEMCPY3D *params) {
  const struct sim_copy *copy = &node->op->copy;
  *params = (CUDA_MEMCPY3D){
      .srcMemoryType = CU_MEMORYTYPE_UNIFIED,
      .srcDevice = copy->src,
      .srcPitch = copy->src_pitch,
      .srcHeight = copy->src_pitch == 0 ? 0 : copy->src_slice / copy->src_pitch,
      .dstMemoryType = CU_MEMORYTYPE_UNIFIED,
      .dstDevice = copy->dst,
      .dstPitch = copy->dst_pitch,
      .dstHeight = copy->dst_pitch == 0 ? 0 : copy->dst_slice / copy->dst_pitch,
      .WidthInBytes = copy->width,
      .Height = copy->height,
      .Depth = copy->depth};
}

#define GET(name, type, kind, fill)                                          \
  CUresult name(CUgraphNode handle, type *params) {                          \
    SIM_ENTER(SIM_NEED_INIT);                                                \
    pthread_mutex_lock(&sim_lock);                                           \
    struct node *node = params == NULL ? NULL : typed(handle, kind);         \
    if (node != NULL) fill;                                                  \
    pthread_mutex_unlock(&sim_lock);                                         \
    return node == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;           \
  }

GET(cuGraphKernelNodeGetParams_v2, CUDA_KERNEL_NODE_PARAMS, CU_GRAPH_NODE_TYPE_KERNEL,
    get_kernel(node, params))
GET(cuGraphMemcpyNodeGetParams, CUDA_MEMCPY3D, CU_GRAPH_NODE_TYPE_MEMCPY, get_copy(node, params))
GET(cuGraphMemsetNodeGetParams, CUDA_MEMSET_NODE_PARAMS, CU_GRAPH_NODE_TYPE_MEMSET,
    *params = ((CUDA_MEMSET_NODE_PARAMS){node->op->fill.dst, node->op->fill.pitch,
                                         node->op->fill.value, node->op->fill.element,
                                         node->op->fill.width, node->op->fill.height}))
GET(cuGraphHostNodeGetParams, CUDA_HOST_NODE_PARAMS, CU_GRAPH_NODE_TYPE_HOST,
    *params = ((CUDA_HOST_NODE_PARAMS){node->op->host.run, node->op->host.data}))

CUresult cuGraphKernelNodeGetParams(CUgraphNode handle, CUDA_KERNEL_NODE_PARAMS_v1 *params) {
  CUDA_KERNEL_NODE_PARAMS wide;
  if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
  const CUresult result = cuGraphKernelNodeGetParams_v2(handle, &wide);
  if (result == CUDA_SUCCESS) memcpy(params, &wide, sizeof *params);
  return result;
}

/* ---- set ---- */

/* locks: held. owns: op, also when the node is not there. */
static CUresult replace(CUgraphNode handle, CUgraphNodeType type, CUresult result,
                        struct sim_op *op) {
  struct node *node = typed(handle, type);
  if (result == CUDA_SUCCESS && (node == NULL || node->graph->capturing))
    result = CUDA_ERROR_INVALID_VALUE;
  if (result == CUDA_SUCCESS) {
    sim_op_free(node->op);
    node->op = op;
  } else if (op != NULL) {
    sim_op_free(op);
  }
  return result;
}

#define SET(name, type, kind, make)                                          \
  CUresult name(CUgraphNode handle, const type *params) {                    \
    SIM_ENTER(SIM_NEED_CONTEXT);                                             \
    struct sim_op *op = NULL;                                                \
    bool pageable = false;                                                   \
    (void)pageable;                                                          \
    if (params == NULL) return CUDA_ERROR_INVALID_VALUE;                     \
    pthread_mutex_lock(&sim_lock);                                           \
    const CUresult made = make;                                              \
    const CUresult result = replace(handle, kind, made, op);                 \
    pthread_mutex_unlock(&sim_lock);                                         \
    return result;                                                           \
  }

SET(cuGraphKernelNodeSetParams_v2, CUDA_KERNEL_NODE_PARAMS, CU_GRAPH_NODE_TYPE_KERNEL,
    sim_kernel_op(params, &op))
SET(cuGraphMemcpyNodeSetParams, CUDA_MEMCPY3D, CU_GRAPH_NODE_TYPE_MEMCPY,
    sim_copy3d_op(params, &op, &pageable))
SET(cuGraphMemsetNodeSetParams, CUDA_MEMSET_NODE_PARAMS, CU_GRAPH_NODE_TYPE_MEMSET,
    sim_memset_op(params, &op))
SET(cuGraphHostNodeSetParams, CUDA_HOST_NODE_PARAMS, CU_GRAPH_NODE_TYPE_HOST,
    sim_host_op(params, &op))

CUresult cuGraphKernelNodeSetParams(CUgraphNode handle, const CUDA_KERNEL_NODE_PARAMS_v1 *params) {
  CUDA_KERNEL_NODE_PARAMS wide = {0};
  if (params == NULL) return CUDA_ERROR_INVALID_VALUE;
  memcpy(&wide, params, sizeof *params);
  return cuGraphKernelNodeSetParams_v2(handle, &wide);
}

CUresult cuGraphNodeSetParams(CUgraphNode handle, CUgraphNodeParams *params) {
  SIM_ENTER(SIM_NEED_CONTEXT);
  struct sim_op *op = NULL;
  pthread_mutex_lock(&sim_lock);
  const struct node *node = sim_node_of(handle);
  CUresult result = CUDA_ERROR_INVALID_VALUE;
  if (node != NULL) result = sim_params_op(params, node->type, &op);
  result = replace(handle, node == NULL ? CU_GRAPH_NODE_TYPE_EMPTY : node->type, result, op);
  pthread_mutex_unlock(&sim_lock);
  return result;
}

/* ---- attributes ---- */

CUresult cuGraphKernelNodeGetAttribute(CUgraphNode handle, CUkernelNodeAttrID which,
                                       CUkernelNodeAttrValue *value) {
  SIM_ENTER(SIM_NEED_INIT);
  if (value == NULL || (unsigned)which >= SIM_ATTRIBUTES_MAX) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  const struct node *node = typed(handle, CU_GRAPH_NODE_TYPE_KERNEL);
  if (node != NULL) {
    memset(value, 0, sizeof *value);
    if (node->attributes != NULL) *value = node->attributes[which];
  }
  pthread_mutex_unlock(&sim_lock);
  return node == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}

CUresult cuGraphKernelNodeSetAttribute(CUgraphNode handle, CUkernelNodeAttrID which,
                                       const CUkernelNodeAttrValue *value) {
  SIM_ENTER(SIM_NEED_INIT);
  if (value == NULL || (unsigned)which >= SIM_ATTRIBUTES_MAX) return CUDA_ERROR_INVALID_VALUE;
  pthread_mutex_lock(&sim_lock);
  struct node *node = typed(handle, CU_GRAPH_NODE_TYPE_KERNEL);
  if (node != NULL && node->attributes == NULL) {
    node->attributes = calloc(SIM_ATTRIBUTES_MAX, sizeof *node->attributes);
    if (node->attributes == NULL) abort();
  }
  if (node != NULL) node->attributes[which] = *value;
  pthread_mutex_unlock(&sim_lock);
  return node == NULL ? CUDA_ERROR_INVALID_VALUE : CUDA_SUCCESS;
}
