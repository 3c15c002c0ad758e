"""recon3d.face"""
