# The commands people type most. `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help build test lint demo docker-build docker-up docker-logs docker-down

COMPOSE ?= docker compose

help: ## List the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(firstword $(MAKEFILE_LIST))

build: ## Build every program
	cargo build --workspace --locked

test: ## Run every test
	cargo test --workspace

lint: ## Check format, scripts, lints and dependencies
	cargo fmt --all -- --check
	scripts/check-scripts.sh
	cargo clippy --workspace --all-targets --locked -- -D warnings
	cargo deny --locked check bans licenses sources

demo: ## Show the whole job on a server of its own
	cargo run --release -p demonctl -- demo

docker-build: .env ## Build the images
	$(COMPOSE) build

docker-up: .env ## Start server, publisher and two agents; health at localhost:3000 and :3001
	$(COMPOSE) up --detach --build

docker-logs: ## Follow their logs
	$(COMPOSE) logs --follow

docker-down: ## Stop them; volumes, so all data, stay
	$(COMPOSE) down

# Fresh passwords, once: never replaced.
.env:
	scripts/compose-passwords.sh
