/* Between compiler.c and the processes that child.c runs: packets and memory files. */
#ifndef SYSTOLIC_DEVICE_PJRT_CHILD_H
#define SYSTOLIC_DEVICE_PJRT_CHILD_H

#include <sys/types.h>
#include <sys/uio.h>

#include "device/pjrt/pjrt.h"

/* What the child is told when it is forked: borrowed from the parent's memory, of which it has a copy. */
typedef struct child_config {
    const char *plugin, *topology, *options;        /* topology may be NULL */
    const void *topology_bytes; size_t topology_len;
    double limit_s;
} child_config;

/* A packet is this and, with requests and results, a memory file. Packets are atomic, so there are no half messages. */
typedef enum packet_kind { P_TOPOLOGY, P_DESCRIBE, P_COMPILE, P_STARTED, P_RESULT, P_DIED } packet_kind;
typedef struct packet {
    packet_kind kind;
    status st;                      /* P_RESULT */
    pid_t worker;                   /* P_RESULT, P_DIED: whose */
    char text[900];                 /* P_RESULT: message of a failure; P_DIED: how and its last words */
} packet;

/* The memory file of P_TOPOLOGY: the bytes. Of P_COMPILE: head, name, encoded options, code. Of a result: head, executable. */
typedef struct request_head { size_t name_len, options_len, code_len; } request_head;
typedef struct result_head { pjrt_stats stats; pjrt_target_info info; size_t executable_len; } result_head;

/* pass: a descriptor to send along, or -1. False if the other side is gone. */
bool pj_packet_send(int fd, const packet *p, int pass);
/* *passed: the descriptor that came along, the receiver's, or -1. False at the end. */
bool pj_packet_receive(int fd, packet *p, int *passed);

status pj_file_make(const struct iovec *parts, int n, int *out) FALLIBLE;
/* Maps the file for reading and closes the descriptor. */
status pj_file_map(int fd, const char **data, size_t *len) FALLIBLE;
void pj_file_unmap(const char *data, size_t len);

/* The supervisor: call it in a fresh fork. Ends when the other end of `fd` is closed. */
_Noreturn void pj_child_main(const child_config *c, int fd);

#endif
