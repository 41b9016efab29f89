# make figure6   draw the paper's Figure 6, from nothing
# make figure7   align a tiny Stable Diffusion, the paper's Figure 7
# make lab       open copies of the lessons in Jupyter
# make student   copy the project without its solutions, to hand out
# make slides    make the slides of one session of 90 minutes
# make notebooks run all lessons and keep their outputs
# make book      build the course as web pages, out/book/index.html
# make test      run the tests
# make gpu-check try everything on a GPU, and measure it
# make figures   regenerate everything in figures/, and the tables made of it
# make lint      check style

PYTHON ?= python3
VENV := .venv
# threads that wait for each other by spinning crawl when anything else runs
export GOMP_SPINCOUNT ?= 1000
RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SPHINX = $(RUN) -m sphinx -q -W --keep-going -c book -d out/book-parts/cache

figure6: $(VENV)/base
	$(RUN) -m toy figure6

figure7: $(VENV)/sd
	$(RUN) -m sd figure7

figures: $(VENV)/sd
	$(RUN) -m toy figure6 --seeds 10 --out figures
	for world in moons rings grid; do $(RUN) -m toy figure6 --world $$world --seeds 5 --out figures || exit; done
	$(RUN) -m toy utilities --out figures
	$(RUN) -m toy sweep --seeds 10 --out figures
	$(RUN) -m toy explore --out figures
	$(RUN) -m toy sweep --seeds 5 --world moons --out figures
	$(RUN) docs/graded.py
	rm -f figures/beta.json && $(RUN) docs/beta.py
	rm -rf out/paths
	$(RUN) docs/predict.py
	$(RUN) docs/data.py
	$(RUN) docs/taste.py
	$(RUN) -m sd figure7 --seeds 5 --out figures
	$(RUN) -m sd figure7 --seeds 5 --out figures --preference large
	$(RUN) -m sd study --seeds 5 --out figures
	$(RUN) -m docs.beta_images
	$(RUN) -m docs.transfer
	$(RUN) docs/film.py
	$(RUN) docs/tables.py

# copies, so that running a lesson changes no file that git tracks
lab: $(VENV)/notebooks
	$(RUN) -m notebooks lessons course
	$(RUN) -m jupyter lab course

student: $(VENV)/notebooks
	$(RUN) -m notebooks student out/student

slides: $(VENV)/notebooks
	$(RUN) -m notebooks slides

# two at a time, each on one core
notebooks: $(VENV)/notebooks
	ls notebooks/*.ipynb | OMP_NUM_THREADS=1 xargs -n 1 -P 2 $(RUN) -m jupyter nbconvert \
	    --to notebook --execute --inplace \
	    --ExecutePreprocessor.record_timing=False --ExecutePreprocessor.store_widget_state=False
	$(RUN) -m jupyter nbconvert --inplace --coalesce-streams notebooks/*.ipynb

# in the printable file a link to a section of another page leads to that page: Sphinx gives it no better place
book: $(VENV)/book
	rm -rf out/book out/book-parts
	$(SPHINX) . out/book
	$(SPHINX) -b singlehtml . out/book-parts/printable
	sed 's/href="\(#document-[^"#]*\)#[^"]*"/href="\1"/g' out/book-parts/printable/README.html > out/book/print.html
	cp out/book/README.html out/book/index.html
	$(RUN) book/check.py out/book

test: $(VENV)/dev
	$(RUN) -m pytest -n 2 --dist worksteal

gpu-check: $(VENV)/sd
	$(RUN) docs/gpu_check.py

lint: $(VENV)/dev
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# Each stamp file says that an installation is done and newer than what it was made from.
$(VENV)/base: pyproject.toml constraints.txt
	@echo "installing into $(VENV), once; this takes a minute or more"
	$(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	@touch $@

$(VENV)/sd: $(VENV)/base
	$(PIP) --editable '.[sd]'
	@touch $@

$(VENV)/notebooks: $(VENV)/sd
	$(PIP) --editable '.[sd,notebooks]'
	@touch $@

$(VENV)/dev: $(VENV)/notebooks
	$(PIP) --editable '.[sd,notebooks,dev]'
	@touch $@

# Building the book runs no lesson: it needs neither torch nor this project installed.
$(VENV)/book: pyproject.toml constraints.txt
	@echo "installing what makes the book into $(VENV), once"
	$(PYTHON) -m venv $(VENV)
	$(PIP) $$($(RUN) -c "import tomllib; \
	    print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['book'])")
	@touch $@

.PHONY: figure6 figure7 figures lab student slides notebooks book test gpu-check lint
