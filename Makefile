# make demo | make evidence | make benchmark | make benchmark-gpu | make test | make test-gpu | make fuzz | make kills | make soak | make install; see README.md
PYTHON ?= python3
TORCH ?= torch==2.13.0
# The oldest versions that requirements.txt names: make test VERSIONS='==' TORCH=torch==2.4.0 PYTHON=python3.10
VERSIONS ?= >=
BIN := .venv/bin
READY := .venv/.ready

.PHONY: install demo evidence benchmark benchmark-gpu sample test test-gpu fuzz kills soak clean

install: $(READY)

# torch first and pinned: anything else would choose a newer one.
$(READY): requirements.txt pyproject.toml setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install $(TORCH)
	sed 's/>=/$(VERSIONS)/' requirements.txt > .venv/requirements.txt
	$(BIN)/pip install -r .venv/requirements.txt
	$(BIN)/pip install --no-deps -e .
	touch $@

# The degraded copies of the bundled photographs.
sample: $(READY)
	$(BIN)/tlc degrade --input datasets/Sample/test/target --output datasets/Sample/test/input_noise --kind noise
	$(BIN)/tlc degrade --input datasets/Sample/test/target --output datasets/Sample/test/input_blur --kind blur

# Blur, then noise: all bundled photographs without and with TLC, and one of them as a picture.
demo: sample
	$(BIN)/tlc test -opt options/test/Sample/NAFNetLocal-SampleBlur.yml --tlc both --force_yml val:save_img=true
	$(BIN)/tlc test -opt options/test/Sample/NAFNetLocal-SampleNoise.yml --tlc both --force_yml val:save_img=true
	$(BIN)/tlc restore -opt options/demo/NAFNetLocal-SampleBlur.yml --compare
	$(BIN)/tlc restore -opt options/demo/demo.yml --compare

# What TLC gains, measured: docs/evidence.md, the README's table, figures/, the model cards.
evidence: sample
	$(BIN)/python scripts/evidence.py

# Speed and memory: the tables of docs/performance.md and the README. Nothing else may run meanwhile.
benchmark: $(READY)
	$(BIN)/tlc benchmark --device cpu --sizes 256x256 640x360 1280x720 --output results/benchmark
	cp results/benchmark.json results/benchmark.png figures/
	$(BIN)/python scripts/make_reference.py

# The same on an NVIDIA GPU, with the name that its files shall have: make benchmark-gpu CARD=h100
CARD ?= gpu
benchmark-gpu: $(READY)
	$(BIN)/tlc benchmark --device cuda --precisions bf16 fp32 tf32 --output results/benchmark-$(CARD)
	cp results/benchmark-$(CARD).json results/benchmark-$(CARD).png figures/
	$(BIN)/python scripts/make_reference.py

test: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

# 2000 random nets, converted: exact, or reported; damaged pictures, options and checkpoints, ten minutes each, with their counts;
# then options, checkpoints and images of any size. `make test` tries a few of each.
fuzz: $(READY)
	TLC_RANDOM_NETS=2000 $(BIN)/python -m pytest -rP -n auto --maxprocesses 4 tests/test_tlc_random.py
	FUZZ_MINUTES=10 $(BIN)/python -m pytest -rP -n 3 tests/test_fuzz_files.py
	FUZZ=10000 $(BIN)/python -m pytest -n auto --maxprocesses 4 tests/test_fuzz.py

# Twelve SIGKILLs in each of five kinds of long work, at random moments; `make test` tries one of each;
# and a process of two that hangs.
kills: $(READY)
	KILLS=12 $(BIN)/python -m pytest -rP -n auto --maxprocesses 4 tests/test_kills.py tests/test_peers.py

# Memory and open files over 500 pictures and 2000 iterations: some minutes.
soak: $(READY)
	SOAK=500 $(BIN)/python -m pytest -rP tests/test_memory.py

# What runs on an NVIDIA GPU alone; `make test` hides GPUs, so that it is the same everywhere.
test-gpu: $(READY)
	TLC_TEST_GPU=1 $(BIN)/python -m pytest tests/test_cuda.py tests/test_kernels.py tests/test_training_kernels.py tests/test_benchmark_gpu.py

clean:
	rm -rf .venv build *.egg-info
