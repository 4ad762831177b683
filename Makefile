# plyfs: targets for people and for CI.
#
#   make build         the program and the mount helper, optimised, in target/release
#   make demo          an image from its making to a mount and a change on it, step by step
#   make test          every test; installs what they need
#   make check         format, lints, and the tests that need neither root nor /dev/fuse
#   make bench         compares with kernel overlayfs, fuse-overlayfs and podman (ARGS="walk pull")
#   make conformance   compares mounts of real images with what another tool unpacks
#   make conformance-writes     pjdfstest and fsx on writable mounts, beside kernel overlayfs
#   make conformance-workloads  a distribution's daily work in containers, beside a plain directory
#   make soak          many processes at work for half an hour, memory and descriptors watched (MINUTES=30)
#   make torture       kills, full disks, failing calls and lost power at every step of each command that writes to
#                      the store (VERB=pull for one of them), then ten processes at once for ten minutes
#   make fuzz          fuzzes each parser of untrusted bytes (SECONDS_EACH=60)
#   make doc           the documentation of the library
#   make install       what is built, manual pages, completions and sample configurations, into
#                      $(DESTDIR)$(PREFIX), helper links into $(DESTDIR)$(SBINDIR), the systemd unit
#                      into $(DESTDIR)$(UNITDIR)
#   make deb           a Debian package of what make install puts in place, in target/
#   make clean
#
# build, check, doc, install and deb need no network (beyond cargo's own) and never call sudo. demo, test, bench
# and conformance install missing packages with apt-get (sudo when not root), test and conformance-writes two
# test suites with cargo into target/tools; conformance-workloads fetches packages. They need no network otherwise.

CARGO ?= cargo
PREFIX ?= /usr/local
SBINDIR ?= /sbin
UNITDIR ?= $(PREFIX)/lib/systemd/system
ARGS ?=
SECONDS_EACH ?= 60
MINUTES ?= 30

# What the mount helper must never link: it is small, and it may run at boot.
FOREIGN_TO_HELPER = ureq rustls tokio tonic redb clap anyhow indicatif

.PHONY: all build helper demo test check check-helper bench conformance conformance-writes conformance-workloads soak torture fuzz doc install deb clean help
.DEFAULT_GOAL := build

help:
	@sed -n '/^#/!q;s/^# \{0,1\}//p' Makefile

all: build

# The helper is built by itself: in one build with the program, cargo would give it the program's features.
build:
	$(CARGO) build --release -p plyfs
	$(CARGO) build --release -p mount-helper
	$(CARGO) run --release --example documents -- target/release/documents

demo:
	scripts/install-packages demo
	scripts/prepare-fuse
	$(CARGO) build --release -p plyfs
	scripts/demo

# Not root, but sudo at hand: the tests run through it, so that those which need root are not left out.
test: check-helper
	scripts/install-packages test containerd podman
	scripts/prepare-fuse
	$(CARGO) build -p mount-helper
	scripts/run-tests

check: check-helper
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	$(CARGO) clippy -p mount-helper -- -D warnings
	$(CARGO) test --workspace --lib --bins
	$(CARGO) test --test architecture --test engine --test hostile

check-helper:
	@found=$$($(CARGO) tree -p mount-helper -e normal --prefix none --no-dedupe | \
	    awk -v words='$(FOREIGN_TO_HELPER)' 'BEGIN { n = split(words, w); for (i = 1; i <= n; i++) bad[w[i]] = 1 } \
	        bad[$$1] { print $$1 }' | sort -u); \
	if [ -n "$$found" ]; then echo "mount-helper links what it must not:" $$found >&2; exit 1; fi

bench:
	scripts/install-packages bench
	scripts/prepare-fuse
	$(CARGO) build --release -p plyfs
	scripts/bench $(ARGS)

conformance:
	scripts/install-packages test
	scripts/prepare-fuse
	$(CARGO) build --release -p plyfs
	scripts/conformance $(ARGS)

conformance-writes:
	scripts/install-packages test
	scripts/prepare-fuse
	$(CARGO) build --release -p plyfs
	scripts/conformance-writes $(ARGS)

conformance-workloads:
	scripts/install-packages workloads
	scripts/prepare-fuse
	$(CARGO) build --release -p plyfs
	scripts/conformance-workloads $(ARGS)

soak:
	scripts/prepare-fuse
	$(CARGO) build --release -p plyfs
	scripts/soak --minutes $(MINUTES) $(ARGS)

torture:
	scripts/install-packages test
	scripts/prepare-fuse
	$(CARGO) build --release -p plyfs
	EVERY_STEP=1 $(CARGO) test --release --test torture -- --nocapture --skip many_processes
	scripts/store-races $(ARGS)

fuzz:
	scripts/fuzz $(SECONDS_EACH)

doc:
	$(CARGO) doc --workspace --no-deps

# What is built is installed as it is: under sudo there is often no cargo, and its output would be root's.
target/release/plyfs:
	$(CARGO) build --release -p plyfs

target/release/mount-plyfs:
	$(CARGO) build --release -p mount-helper

target/release/documents:
	$(CARGO) run --release --example documents -- $@

SHARE = $(DESTDIR)$(PREFIX)/share
install: target/release/plyfs target/release/mount-plyfs target/release/documents
	install -D -m 755 target/release/plyfs $(DESTDIR)$(PREFIX)/bin/plyfs
	install -D -m 755 target/release/mount-plyfs $(DESTDIR)$(PREFIX)/bin/mount.plyfs
	install -d $(DESTDIR)$(SBINDIR)
	ln -sf plyfs $(DESTDIR)$(PREFIX)/bin/plyfs-snapshotter
	ln -sf $(PREFIX)/bin/mount.plyfs $(DESTDIR)$(SBINDIR)/mount.plyfs
	ln -sf $(PREFIX)/bin/mount.plyfs $(DESTDIR)$(SBINDIR)/mount.fuse.plyfs
	install -d $(DESTDIR)$(UNITDIR) $(SHARE)/man/man1 $(SHARE)/man/man8 $(SHARE)/doc/plyfs/examples
	sed 's|/usr/local|$(PREFIX)|' dist/plyfs-snapshotter.service > $(DESTDIR)$(UNITDIR)/plyfs-snapshotter.service
	chmod 644 $(DESTDIR)$(UNITDIR)/plyfs-snapshotter.service
	install -m 644 target/release/documents/man/*.1 $(SHARE)/man/man1
	install -m 644 dist/mount.plyfs.8 $(SHARE)/man/man8
	ln -sf mount.plyfs.8 $(SHARE)/man/man8/mount.fuse.plyfs.8
	install -D -m 644 target/release/documents/plyfs.bash $(SHARE)/bash-completion/completions/plyfs
	install -D -m 644 target/release/documents/_plyfs $(SHARE)/zsh/site-functions/_plyfs
	install -D -m 644 target/release/documents/plyfs.fish $(SHARE)/fish/vendor_completions.d/plyfs.fish
	for sample in containerd.toml storage.conf plyfs-export-store.service; do \
	    sed 's|/usr/local|$(PREFIX)|' dist/$$sample > $(SHARE)/doc/plyfs/examples/$$sample && \
	    chmod 644 $(SHARE)/doc/plyfs/examples/$$sample || exit 1; done

deb: target/release/plyfs target/release/mount-plyfs target/release/documents
	scripts/make-deb

clean:
	$(CARGO) clean
