/* An addon for fresh.js: what Node itself has no word for. Node's interface (N-API) is declared here as far as it is used, so that building it
   needs no header of Node's. */
#include <stddef.h>
#include <stdint.h>

typedef struct napi_env__ *napi_env;
typedef struct napi_value__ *napi_value;
typedef struct napi_callback_info__ *napi_callback_info;
typedef napi_value (*napi_callback)(napi_env, napi_callback_info);

int napi_get_cb_info(napi_env, napi_callback_info, size_t *, napi_value *, napi_value *, void **);
int napi_get_arraybuffer_info(napi_env, napi_value, void **, size_t *);
int napi_create_external_arraybuffer(napi_env, void *, size_t, void *, void *, napi_value *);
int napi_create_int32(napi_env, int32_t, napi_value *);
int napi_create_function(napi_env, const char *, size_t, napi_callback, void *, napi_value *);
int napi_set_named_property(napi_env, napi_value, const char *, napi_value);

/* OpenSSL's, in the executable or in a library that it is linked with. Weak: a Node without it can load this, and is told below. */
extern void RAND_seed(const void *, int) __attribute__((weak));

/* What all threads see: the number of restores, and the entropy of the last one. */
static int32_t shared[9];

/* How many threads have loaded this. */
static _Atomic int32_t threads;

/* seed(ArrayBuffer): makes OpenSSL ask the system for randomness anew, and mix this in. All its generators, of all threads, are
   fed by the one that this reseeds, and notice. */
static napi_value seed(napi_env env, napi_callback_info info) {
  size_t count = 1, size;
  napi_value argument;
  void *bytes;
  if (napi_get_cb_info(env, info, &count, &argument, NULL, NULL) == 0 && count == 1 &&
      napi_get_arraybuffer_info(env, argument, &bytes, &size) == 0) {
    RAND_seed(bytes, (int)size);
  }
  return NULL;
}

/* Called in each thread that loads the addon. Where OpenSSL cannot be reached there is no `seed`. */
__attribute__((visibility("default"))) napi_value napi_register_module_v1(napi_env env, napi_value exports) {
  napi_value value;
  if (napi_create_external_arraybuffer(env, shared, sizeof shared, NULL, NULL, &value) == 0) {
    napi_set_named_property(env, exports, "shared", value);
  }
  if (napi_create_int32(env, threads++, &value) == 0) {
    napi_set_named_property(env, exports, "thread", value);
  }
  if (RAND_seed != NULL && napi_create_function(env, "seed", 4, seed, NULL, &value) == 0) {
    napi_set_named_property(env, exports, "seed", value);
  }
  return exports;
}
