"""recon3d.export"""
