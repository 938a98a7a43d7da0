// SPDX-License-Identifier: GPL-2.0-only
// The parser: bounds-checked, without allocation, without a system call.
#include "request.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>

#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

enum { PID_LIMIT = 4194304 }; // PID_MAX_LIMIT of 64-bit Linux

const char *kind_name(enum request_kind kind)
{
    static const char *const names[] = {"none", "dump", "restore", "kill"};

    return names[kind];
}

static const char *value_of(const char *token, const char *key)
{
    size_t length = strlen(key);

    return strncmp(token, key, length) == 0 && token[length] == '=' ? token + length + 1 : NULL;
}

// Digits only, without sign or leading zero, in 0..limit; -1 if it is anything else.
static long number(const char *text, long limit)
{
    long value = 0;

    if (!*text || (text[0] == '0' && text[1]))
        return -1;
    for (; *text; text++) {
        if (*text < '0' || *text > '9')
            return -1;
        value = value * 10 + (*text - '0');
        if (value > limit)
            return -1;
    }
    return value;
}

static const char *set_id(struct request *request, const char *text)
{
    size_t length = strspn(text, "0123456789");

    if (!length || text[length] || length >= sizeof request->id)
        return "id is not a decimal number of at most 20 digits";
    memcpy(request->id, text, length + 1);
    return NULL;
}

static const char *set_namespaces(struct request *request, const char *text)
{
    static const struct {
        const char *name;
        int flag;
    } known[] = {
        {"mnt", CLONE_NEWNS},      {"uts", CLONE_NEWUTS},       {"ipc", CLONE_NEWIPC},
        {"net", CLONE_NEWNET},     {"cgroup", CLONE_NEWCGROUP}, {"time", CLONE_NEWTIME},
    };

    while (*text) {
        size_t length = strcspn(text, ",");
        size_t i, count = sizeof known / sizeof *known;

        for (i = 0; i < count; i++)
            if (strlen(known[i].name) == length && !strncmp(text, known[i].name, length))
                break;
        if (i == count)
            return "ns names an unknown namespace (known: mnt, uts, ipc, net, cgroup, time)";
        request->namespaces |= known[i].flag;
        text += length;
        if (*text == ',' && !*++text)
            return "ns ends with a comma";
    }
    return NULL;
}

static const char *set_token(struct request *request, const char *token)
{
    const char *value;
    long n;

    if ((value = value_of(token, "id")))
        return set_id(request, value);
    if ((value = value_of(token, "kind"))) {
        if (!strcmp(value, "dump"))
            request->kind = KIND_DUMP;
        else if (!strcmp(value, "restore"))
            request->kind = KIND_RESTORE;
        else
            return "kind is neither dump nor restore";
        return NULL;
    }
    if ((value = value_of(token, "ns")))
        return set_namespaces(request, value);
    if ((value = value_of(token, "pid"))) {
        if ((n = number(value, PID_LIMIT - 1)) < 0 || n == 1)
            return "pid is not 0 or a number from 2 to 4194303";
        request->pid = (pid_t)n;
        return NULL;
    }
    if ((value = value_of(token, "last-pid"))) {
        if ((n = number(value, PID_LIMIT - 1)) < 0)
            return "last-pid is not a number from 0 to 4194303";
        request->last_pid = (pid_t)n;
        return NULL;
    }
    if ((value = value_of(token, "cgroups"))) {
        if ((n = number(value, REQUEST_FDS - FIXED_FDS)) < 0)
            return "cgroups is not a number from 0 to 250";
        request->cgroups = (int)n;
        return NULL;
    }
    if ((value = value_of(token, "fds"))) {
        if ((n = number(value, REQUEST_FDS - FIXED_FDS)) < 0)
            return "fds is not a number from 0 to 250";
        request->inherited = (int)n;
        return NULL;
    }
    if ((value = value_of(token, "huge-pages"))) {
        if ((n = number(value, 1)) < 0)
            return "huge-pages is neither 0 nor 1";
        request->small_pages = !n;
        return NULL;
    }
    if (!strcmp(token, "kill")) {
        request->kind = KIND_KILL;
        return NULL;
    }
    return "unknown token (known: id, kind, ns, pid, last-pid, cgroups, fds, huge-pages, kill, --)";
}

const char *parse_request(struct request *request, char *message, size_t length)
{
    const char *problem = NULL;
    char *token = message, *end = message + length;

    memset(request, 0, sizeof *request);
    strcpy(request->id, "0");
    if (!length)
        return "empty request";
    *end = 0;
    // Every token is read even after a mistake, so that the answer can name the id.
    for (; token < end; token += strlen(token) + 1) {
        const char *wrong;

        if (!strcmp(token, "--"))
            break;
        wrong = set_token(request, token);
        if (wrong && !problem)
            problem = wrong;
    }
    if (problem)
        return problem;
    if (!strcmp(request->id, "0"))
        return "no id, or id 0";
    if (request->kind == KIND_KILL)
        return token < end ? "kill takes nothing but an id" : NULL;
    if (request->kind == KIND_NONE)
        return "no kind";
    if (token >= end)
        return "no -- before criu's arguments";
    for (token += strlen(token) + 1; token < end; token += strlen(token) + 1) {
        if (request->argc == REQUEST_ARGS)
            return "more than 512 arguments for criu";
        request->argv[request->argc++] = token;
    }
    if (!request->argc || strcmp(request->argv[0], kind_name(request->kind)))
        return "criu's first argument is not the kind of the request";
    return NULL;
}
