"""The fixtures every test may ask for; the servers among them are started once, on first use."""

pytest_plugins = ["tests.servers.rabbitmq", "tests.servers.couchdb"]
