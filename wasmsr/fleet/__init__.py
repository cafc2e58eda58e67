"""A fleet of devices over MQTT, with the messages of the Silverline tools."""
