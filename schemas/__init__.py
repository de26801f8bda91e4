"""The wire contract: ids, subjects, permissions, states, faults, messages and the codec.

Pure: nothing here touches a clock, a socket, a file or a random source, so that every process and
every test may import it at no cost.
"""
