"""Text into sound: voices, scripts in sections, and the loudspeaker."""
