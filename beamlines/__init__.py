"""What a beamline is: its spec, the rules that decide about its scans, and one folder of data per beamline."""
