# Outboard.  meson and ninja do the building; this names what people do with it.

BUILD  ?= build
ACCEL  ?=
RUN_DISK ?=
RUN_FILTERS ?=
RUN_MEGABYTES ?= 64
RUN_OPTIONS ?=
TRANSPORT ?= vhost-user
MEMORY ?= shared
export TRANSPORT MEMORY ACCEL RUN_DISK RUN_FILTERS RUN_MEGABYTES RUN_OPTIONS

# "make bench net" is one bench of another kind, not two targets.
BENCH = $(if $(filter net,$(MAKECMDGOALS)),bench/net,bench/run)

.PHONY: help run shell build check test bench net clean

help:
	@echo 'make run     boot a Debian VM whose root disk Outboard forwards to an NBD server, run a'
	@echo '             workload in it, fetch a file over its network, print what Outboard saw'
	@echo 'make shell   the same VM with its console on this terminal'
	@echo 'make build   only build ($(BUILD)/src/outboard)'
	@echo 'make check   the quick tests: no root, no QEMU, under two minutes'
	@echo 'make test    all tests: sanitizers, both compilers, virtual machines; the last line counts'
	@echo 'make bench   Outboard and qemu-storage-daemon side by side'
	@echo 'make bench net   network devices, beside DPDK'"'"'s testpmd (Debian'"'"'s dpdk-dev) and a TAP loop'
	@echo 'make clean   remove the build directories (the guest image stays in ~/.cache/outboard)'
	@echo
	@echo 'Variables:'
	@echo '  TRANSPORT=vhost-user|vfio-user   how QEMU reaches the disk in "make run"; vfio-user is a PCI'
	@echo '                     function and needs QEMU 10.1, which is unpacked into the cache if missing'
	@echo '  MEMORY=shared|private   private: the disk reaches the guest by messages alone (vfio-user)'
	@echo '  ACCEL=tcg|kvm      how QEMU runs the VM (default: kvm if a guest boots with it, else tcg)'
	@echo '  RUN_DISK=FILE      keep the root disk in this file, so that the next run finds it again'
	@echo '  RUN_FILTERS=...    put filters before it: RUN_FILTERS="limit+delay?iops=500&ms=2"'
	@echo '  RUN_MEGABYTES=64   what the workload writes and reads back'
	@echo '  RUN_OPTIONS=...    more options for outboard serve, such as "--poll-us 0"'

build:
	@scripts/install-packages build
	@[ -f $(BUILD)/build.ninja ] || meson setup $(BUILD)
	@ninja -C $(BUILD)

run: build
	@scripts/install-packages build run
	@/usr/bin/python3 scripts/run-vm

shell: build
	@scripts/install-packages build run
	@/usr/bin/python3 scripts/run-vm --shell

check:
	@scripts/install-packages build check
	@/usr/bin/python3 scripts/run-tests quick

test:
	@scripts/install-packages build check run test
	@/usr/bin/python3 scripts/run-tests all

bench: build
	@scripts/install-packages build run
	@/usr/bin/python3 $(BENCH)

net:
	@[ "$(filter bench,$(MAKECMDGOALS))" ] || { echo 'It is "make bench net"'; exit 2; }

clean:
	rm -rf build build-*
