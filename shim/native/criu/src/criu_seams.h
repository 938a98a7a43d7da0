// SPDX-License-Identifier: GPL-2.0-only
// What the server needs of CRIU, and what CRIU may not do when it runs among a container's files.
#ifndef ARCHITECT_CRIU_SEAMS_H
#define ARCHITECT_CRIU_SEAMS_H

// CRIU's own main(); the linker's --wrap gives ours its place.
int __real_main(int argc, char **argv, char **envp);

// Probes the kernel once, in the host's namespaces; every later kerndat_init() of a child is
// answered from the inherited result. Returns 0, or -1 with CRIU's messages on stderr.
int criu_prepare(void);

// Size of the huge pages that a restore may use, 0 for none; for this process and its children.
void criu_set_huge_pages(unsigned long size_bytes);

#endif
