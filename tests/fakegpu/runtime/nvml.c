/* NVML, by which Ray finds the GPUs of a machine. */
#include <string.h>

int nvmlInit(void) { return 0; }
int nvmlInit_v2(void) { return 0; }
int nvmlInitWithFlags(unsigned flags) { return 0; }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int error) { return "fake"; }

int nvmlDeviceGetCount(unsigned *devices) {
    *devices = 1;
    return 0;
}
int nvmlDeviceGetCount_v2(unsigned *devices) { return nvmlDeviceGetCount(devices); }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    static int only;
    *device = &only;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *device, unsigned long long *total_free_used) {
    total_free_used[0] = total_free_used[1] = 8ull << 30;
    total_free_used[2] = 0;
    return 0;
}
int nvmlDeviceGetName(void *device, char *text, unsigned size) {
    strncpy(text, "Fake H200", size);
    return 0;
}
int nvmlDeviceGetUUID(void *device, char *text, unsigned size) {
    strncpy(text, "GPU-00000000-0000-0000-0000-000000000000", size);
    return 0;
}
int nvmlDeviceGetMigMode(void *device, unsigned *current, unsigned *pending) {
    *current = *pending = 0;
    return 3; /* not supported */
}
int nvmlSystemGetDriverVersion(char *text, unsigned size) {
    strncpy(text, "580.00", size);
    return 0;
}

/* What torch asks about the processes of a device when its memory is out. */
int nvmlSystemGetCudaDriverVersion_v2(int *version) {
    *version = 13000;
    return 0;
}
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **device) {
    return nvmlDeviceGetHandleByIndex_v2(0, device);
}
int nvmlDeviceGetComputeRunningProcesses(void *device, unsigned *count, void *processes) {
    *count = 0;
    return 0;
}
int nvmlDeviceGetNvLinkRemoteDeviceType(void *device, unsigned link, int *type) { return 3; }
int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned link, void *info) { return 3; }
