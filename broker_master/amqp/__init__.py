"""The gateway for RabbitMQ clients."""
