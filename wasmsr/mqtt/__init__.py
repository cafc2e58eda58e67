"""The transport of a fleet: MQTT 5, with `paho-mqtt`."""
