# make demo          three sandbox countries: build, train, evaluate in and across countries, report
# make test          all tests
# make real DATA=DIR a captioned folder: build, train from scratch, test recall
# make ablation      the sandbox's pairs: adaptation with each part left out, over ten seeds
# make goldens DIR=… golden tests over any folder of reference outputs
# make update-bench  what an edit of 1 % of the map costs (needs Python)
# make bench         numbers beside those of other programs, in one run (needs Python, see tests/peers)
# make chaos         builds killed, paused, cut off and failed for three minutes (SEED=…); make chaos-long for all of it
# make slurm-test    builds on a real Slurm of three nodes on this machine (apt: slurmctld slurmd slurm-client munge)
# make kubernetes-test  a build on a real control plane, whose kubelets a script stands in for (see tests/kubernetes/cluster.sh)
# make atlas-test    `serve` in a real browser and under a crowd (apt: chromium; pip: playwright axe-playwright-python)
# make fuzz          every reader of others' bytes on damaged inputs, SECONDS (120) for each; SEED=…, TARGETS="pickle zip"
# make install       the program without debug information, man pages and completions below PREFIX (~/.local)
# make gate-full     the whole gate, long forms too, before a release
# make gpu-bundle DIR=…  what a machine with a GPU needs for tests/gpu-check.sh (needs a CUDA toolkit, see docs/gpu.md)

URBANCROSS = target/debug/urbancross
DEMO      ?= demo-out
REAL      ?= real-out
TILES     ?= 420
SEED      ?= 1

PREFIX    ?= $(HOME)/.local

.PHONY: install programs demo ablation test real goldens bench update-bench gpu-bundle chaos chaos-driver chaos-long fuzz gate-full check binary slurm-test kubernetes-test atlas-test

binary:
	cargo build --locked --workspace --bins

# those that somebody runs, less what only checks; with the features of the whole workspace: tests compile nothing twice
programs:
	cargo build --locked --workspace --bin urbancross --bin urbancross-sandbox

install:
	cargo build --locked --release --package pipeline
	install -D target/release/urbancross $(DESTDIR)$(PREFIX)/bin/urbancross
	target/release/urbancross man --out $(DESTDIR)$(PREFIX)/share/man/man1
	install -d $(DESTDIR)$(PREFIX)/share/bash-completion/completions $(DESTDIR)$(PREFIX)/share/zsh/site-functions \
		$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d
	target/release/urbancross completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/urbancross
	target/release/urbancross completions zsh > $(DESTDIR)$(PREFIX)/share/zsh/site-functions/_urbancross
	target/release/urbancross completions fish > $(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/urbancross.fish

demo: programs
	URBANCROSS=$(abspath $(URBANCROSS)) TILES=$(TILES) deploy/demo.sh $(DEMO)

ablation: demo
	$(abspath $(URBANCROSS)) ablate $(DEMO)/germany_to_spain.toml $(DEMO)/finland_to_spain.toml \
		$(DEMO)/germany_to_finland.toml --jobs $(shell nproc) --report $(DEMO)/ablation.html

# examples are checked by clippy: linking them takes as long as the tests of a crate
test: binary
	cargo test --locked --workspace --lib --bins --tests
	cargo test --locked --workspace --doc
	# the compositions that a GPU takes where it has no kernel, on the CPU
	URBANCROSS_CPU_KERNELS=off cargo test --locked --workspace --lib -- ops:: clip:: sam:: instructblip:: llava:: language:: sentence:: trainer:: adapt::

real: programs
	@test -n "$(DATA)" || { echo "usage: make real DATA=DIR   (DIR has images/ and a caption file)"; exit 2; }
	$(URBANCROSS) run manifests/captioned.toml --set source.url=$(DATA) --set work.url=$(REAL)

goldens:
	@test -n "$(DIR)" || { echo "usage: make goldens DIR=…   (folders with config.json, model.safetensors, io.safetensors)"; exit 2; }
	URBANCROSS_GOLDENS=$(abspath $(DIR)) cargo test --locked --workspace --lib goldens -- --nocapture

bench:
	tests/bench.sh

update-bench:
	tests/update-bench.sh

gpu-bundle:
	@test -n "$(DIR)" || { echo "usage: make gpu-bundle DIR=…"; exit 2; }
	tests/gpu-bundle.sh $(DIR)

# with the features of the whole workspace, as everything else: otherwise dependencies compile once more
chaos-driver: binary
	cargo build --locked --workspace --example chaos

chaos: chaos-driver
	target/debug/examples/chaos --seed $(SEED)

chaos-long: chaos-driver
	target/debug/examples/chaos --seed $(SEED) --long

slurm-test: binary
	URBANCROSS_SLURM=yes cargo test --locked --workspace --test slurm

kubernetes-test: binary
	URBANCROSS_KUBERNETES=yes cargo test --locked --workspace --test results -- --nocapture control_plane

atlas-test: binary
	tests/browser/atlas.sh $(DIR)

fuzz:
	cargo run --locked -p fuzz -- $(or $(SECONDS),120) $(SEED) $(TARGETS)

gate-full:
	tests/gate.sh full

check:
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	tests/walls.sh
	tests/licences.sh
	tests/links.sh
